//! The main job where there is no IPv4: signalling, SDP and media over IPv6.

use crate::harness::main_job::MainJob;
use crate::harness::{EdgeConfig, Net, Scene, have_sipp};

#[test]
fn success_on_ipv6() {
    if !have_sipp() {
        return;
    }
    let Some(net) = Net::v6() else {
        return;
    };
    let scene = Scene::new(net, &EdgeConfig::default());
    let story = MainJob::over_tcp(&scene).plays(&scene);
    for (trunk, peer) in [
        ("carrier", scene.net.carrier),
        ("ai", scene.net.ai),
        ("agents", scene.net.human),
    ] {
        let source = story.leg(trunk)["source"].as_str().unwrap_or_default();
        assert!(source.starts_with(&format!("[{peer}]:")), "{source}");
        story.tells(&[&format!(
            "first_rtp first RTP packet of this leg's peer, from [{peer}]"
        )]);
    }
}
