//! baresip: a SIP phone of another make that speaks TLS itself, driven over its ctrl_tcp module.

use super::pki::Issued;
use super::sipp::is_listening;
use super::wait;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MODULES: &str = "/usr/lib/baresip/modules";
/// It listens for TLS on the port behind the one for UDP and TCP.
const PLAIN: u16 = 5080;
const TLS: u16 = PLAIN + 1;
const CONTROL: u16 = 4444;
/// The byte that fills its packets.
pub const VOICE: u8 = 0x42;

/// Whether baresip and the modules it needs are installed; says so when a test is skipped for it.
pub fn have_baresip() -> bool {
    let modules = ["account", "aufile", "ctrl_tcp", "g711", "menu", "sndfile"];
    let all = modules
        .iter()
        .all(|module| Path::new(&format!("{MODULES}/{module}.so")).exists());
    let found = all && Command::new("baresip").arg("-h").output().is_ok();
    if !found {
        eprintln!("SKIPPED: baresip is not installed (apt install baresip-core)");
    }
    found
}

/// A running phone. It is killed when dropped.
///
/// It speaks with a voice like that of an `RtpParty`, and records what it hears. Its RTP and the connections that
/// it opens come from 127.0.0.1, whatever its address is.
pub struct Baresip {
    child: Child,
    control: TcpStream,
    received: Vec<u8>,
    dir: PathBuf,
}

impl Baresip {
    /// Where the phone at `ip` takes TLS connections.
    pub fn address(ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, TLS)
    }

    /// Starts a phone at `ip` that is called by `number`, shows `own` and trusts `ca`.
    pub fn start(dir: &Path, number: &str, ip: IpAddr, own: &Issued, ca: &Path) -> Baresip {
        let dir = dir.join("baresip");
        fs::create_dir(&dir).expect("a new directory");
        fs::write(dir.join("config"), config(&dir, ip, own, ca)).expect("written");
        let account = format!(
            "<sip:{number}@{};transport=tls>;regint=0;answermode=manual\n",
            Baresip::address(ip)
        );
        fs::write(dir.join("accounts"), account).expect("written");
        fs::write(dir.join("contacts"), "").expect("written");
        fs::write(dir.join("voice.wav"), wav(pcmu(VOICE))).expect("written");
        let log = fs::File::create(dir.join("log")).expect("a log file");
        let mut child = Command::new("baresip")
            .args(["-s", "-f"])
            .arg(&dir)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("baresip starts");
        let read_log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        let control = SocketAddr::new(ip, CONTROL);
        let ready = wait::try_until(wait::PATIENCE, || {
            assert!(matches!(child.try_wait(), Ok(None)), "{}", read_log());
            (is_listening(control) && is_listening(Baresip::address(ip))).then_some(())
        });
        assert!(ready.is_some(), "baresip does not listen:\n{}", read_log());
        let control = TcpStream::connect(control).expect("it listens");
        control
            .set_read_timeout(Some(wait::PATIENCE))
            .expect("a read timeout");
        Baresip {
            child,
            control,
            received: Vec::new(),
            dir,
        }
    }

    /// A command of its menu, e.g. `accept` or `hangup`. Waits until it was carried out.
    pub fn command(&mut self, name: &str) {
        let command = json!({ "command": name }).to_string();
        let netstring = format!("{}:{command},", command.len());
        self.control
            .write_all(netstring.as_bytes())
            .expect("baresip reads");
        let answer = self.until(|message| message["response"] == true);
        assert_eq!(answer["ok"], true, "{name}: {answer}");
    }

    /// Waits for an event, e.g. `CALL_INCOMING`.
    pub fn event(&mut self, kind: &str) -> Value {
        self.until(|message| message["type"] == kind)
    }

    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some(message) = self.take() {
                if wanted(&message) {
                    return message;
                }
            }
            let mut bytes = [0; 4096];
            match self.control.read(&mut bytes) {
                Ok(length) if length > 0 => self.received.extend_from_slice(&bytes[..length]),
                end => panic!("baresip says no more ({end:?}):\n{}", self.log()),
            }
        }
    }

    /// Cuts one netstring from what was received.
    fn take(&mut self) -> Option<Value> {
        let colon = self.received.iter().position(|&byte| byte == b':')?;
        let length: usize = std::str::from_utf8(&self.received[..colon])
            .ok()?
            .parse()
            .expect("the length of a netstring");
        let end = colon + 1 + length;
        if self.received.len() <= end {
            return None;
        }
        let text: Vec<u8> = self.received.drain(..=end).skip(colon + 1).collect();
        Some(serde_json::from_slice(&text[..length]).expect("JSON"))
    }

    /// SIP messages it has sent and received, and what else it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// How many samples it has heard of a party whose packets carry nothing but `voice` (PCMU). The recording is complete when
    /// the call is over.
    pub fn heard(&self, voice: u8) -> usize {
        let files = fs::read_dir(&self.dir).expect("its directory");
        let recording = files
            .filter_map(Result::ok)
            .find(|file| file.file_name().to_string_lossy().ends_with("-dec.wav"));
        let bytes = fs::read(recording.expect("a recording").path()).expect("readable");
        // Behind the header of a WAV file with 16-bit samples.
        let wanted = pcmu(voice).to_le_bytes();
        let samples = bytes.get(44..).unwrap_or_default().chunks(2);
        samples.filter(|sample| *sample == wanted).count()
    }
}

/// The linear value of a µ-law byte (ITU-T G.711).
fn pcmu(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 0x84) << ((byte >> 4) & 7);
    let value = magnitude - 0x84;
    if byte & 0x80 == 0 { value } else { -value }
}

/// A minute of one value: a WAV file with 16-bit samples, 8000 a second.
fn wav(value: i16) -> Vec<u8> {
    const SAMPLES: u32 = 60 * 8000;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + 2 * SAMPLES).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    // PCM, one channel.
    file.extend([1u16, 1].map(u16::to_le_bytes).concat());
    file.extend([8000u32, 16_000].map(u32::to_le_bytes).concat());
    file.extend([2u16, 16].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend((2 * SAMPLES).to_le_bytes());
    file.extend(value.to_le_bytes().repeat(SAMPLES as usize));
    file
}

fn config(dir: &Path, ip: IpAddr, own: &Issued, ca: &Path) -> String {
    let dir = dir.display();
    // Its media is on 127.0.0.1, as that of other tests may be.
    let ports = 40_000 + 20 * (std::process::id() % 1000);
    format!(
        "poll_method epoll
net_interface {ip}
sip_listen {ip}:{PLAIN}
sip_certificate {}
sip_cafile {}
call_local_timeout 60
call_max_calls 4
audio_path {dir}
audio_player aufile,{dir}/play.wav
audio_source aufile,{dir}/voice.wav
audio_alert aufile,{dir}/alert.wav
audio_srate 8000-8000
audio_channels 1-1
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports {ports}-{}
rtcp_mux no
snd_path {dir}
ctrl_tcp_listen {ip}:{CONTROL}
module_path {MODULES}
module g711.so
module aufile.so
module sndfile.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
",
        own.both.display(),
        ca.display(),
        ports + 18,
    )
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
