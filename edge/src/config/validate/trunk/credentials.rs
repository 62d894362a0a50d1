//! Who a trunk says it is, and who this edge says it is.

use crate::config::credential::Files;
use crate::config::diagnostic::{At, Place, Sink};
use crate::config::raw::{RawPassword, RawPresent, RawTrunk};
use crate::config::secret;
use edge_proto::config::{Credentials, PresentedCredentials, Secret, Trunk};

/// Fills in `credentials`, `realm`, `digest_algorithms` and `present`.
pub(super) fn apply(sink: &mut Sink<'_>, raw: &RawTrunk, files: Files<'_>, trunk: &mut Trunk) {
    if let Some(realm) = &raw.realm {
        trunk.realm.clone_from(&realm.value);
    }
    algorithms(sink, raw, trunk);
    trunk.credentials = pair(sink, raw.username.as_ref(), &raw.password, files);
    let demanded = trunk.credentials.clone();
    trunk.present = match &raw.present {
        Some(present) => presented(sink, present, files),
        None => demanded.map(|pair| PresentedCredentials {
            username: pair.username,
            password: pair.password,
            realm: None,
        }),
    };
    let incomplete = raw.username.is_none() || raw.password.place().is_none();
    if trunk.auth.demands_digest() && incomplete {
        let place = raw.auth.as_ref().map_or(&raw.place, |auth| &auth.place);
        sink.error(
            place,
            "digest needs the keys \"username\" and \"password\" or \"password_file\"",
        );
    }
}

fn algorithms(sink: &mut Sink<'_>, raw: &RawTrunk, trunk: &mut Trunk) {
    let Some(listed) = &raw.digest_algorithms else {
        return;
    };
    trunk.digest_algorithms.clear();
    for At { value, place } in &listed.items {
        if trunk.digest_algorithms.contains(value) {
            sink.error(place, "this algorithm is listed twice");
        }
        trunk.digest_algorithms.push(*value);
    }
    if listed.written == 0 {
        sink.error(&listed.place, "expected at least one algorithm");
    }
}

fn presented(
    sink: &mut Sink<'_>,
    raw: &RawPresent,
    files: Files<'_>,
) -> Option<PresentedCredentials> {
    if raw.password.place().is_none() {
        sink.error(
            &raw.place,
            "the key \"password\" or \"password_file\" is missing",
        );
    }
    let pair = pair(sink, raw.username.as_ref(), &raw.password, files)?;
    Some(PresentedCredentials {
        username: pair.username,
        password: pair.password,
        realm: raw.realm.as_ref().map(|realm| realm.value.clone()),
    })
}

/// A user name and its password, when both are there and right.
fn pair(
    sink: &mut Sink<'_>,
    username: Option<&At<String>>,
    password: &RawPassword,
    files: Files<'_>,
) -> Option<Credentials> {
    match (username, password.place()) {
        (None, Some(place)) => sink.error(place, "a password without the key \"username\""),
        (Some(username), None) => sink.error(
            &username.place,
            "a user name without the key \"password\" or \"password_file\"",
        ),
        _ => {}
    }
    let (secret, place) = read(sink, password, files)?;
    let username = username?.value.clone();
    match secret {
        Ok(password) => Some(Credentials { username, password }),
        Err(fault) => {
            sink.error(place, fault);
            None
        }
    }
}

fn read<'a>(
    sink: &mut Sink<'_>,
    password: &'a RawPassword,
    files: Files<'_>,
) -> Option<(Result<Secret, String>, &'a Place)> {
    match (&password.inline, &password.file) {
        (Some(_), Some(file)) => {
            sink.error(
                &file.place,
                "both password and password_file; expected one of them",
            );
            None
        }
        (Some(inline), None) => {
            Some((secret::check_password(inline.value.expose()), &inline.place))
        }
        (None, Some(file)) => {
            let path = files.path(sink, file)?;
            Some((secret::read_password(&path), &file.place))
        }
        (None, None) => None,
    }
}
