//! Passing a guest's wishes on to its own QEMU: devices that come and go while it runs.
//!
//! A program in the guest puts a command of QMP, QEMU's machine protocol, as `qmp/N.command` into the share, N counting
//! from 0. The answer comes back as `qmp/N.answer`, QEMU's events as `qmp/N.event` in the order in which they came. Each
//! file appears whole, by a rename.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The directory of the share.
pub const DIRECTORY: &str = "qmp";

/// What QEMU says, one line a message.
#[derive(Debug, PartialEq)]
enum Message {
    /// It is there.
    Greeting,
    /// What became of the command of this number, as a whole.
    Answer(u64, Value),
    /// Something happened.
    Event(Value),
    /// The answer to our own greeting.
    Ready,
}

/// Reads a line.
fn parse(line: &str) -> Result<Message> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("QEMU's machine protocol: {line}"))?;
    if value.get("QMP").is_some() {
        return Ok(Message::Greeting);
    }
    if value.get("event").is_some() {
        return Ok(Message::Event(value));
    }
    match (value["id"].as_u64(), value.get("return")) {
        (Some(id), _) => Ok(Message::Answer(id, value)),
        (None, Some(_)) => Ok(Message::Ready),
        (None, None) => bail!("QEMU's machine protocol: {line}"),
    }
}

/// A guest's command under its number, as QEMU takes it; what is none is sent all the same, for QEMU to refuse.
fn numbered(number: u64, text: &str) -> Result<String> {
    let mut value: Value = serde_json::from_str(text).with_context(|| format!("the guest's command {text:?}"))?;
    value["id"] = number.into();
    Ok(format!("{value}\n"))
}

/// The go-between.
pub struct Bridge {
    socket: PathBuf,
    share: PathBuf,
    stream: Option<UnixStream>,
    ready: bool,
    partial: Vec<u8>,
    commands: u64,
    events: u64,
}

impl Bridge {
    /// Between QEMU's socket, which need not be there yet, and the share.
    pub fn new(socket: &Path, share: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            share: share.join(DIRECTORY),
            stream: None,
            ready: false,
            partial: Vec::new(),
            commands: 0,
            events: 0,
        }
    }

    /// Passes on what there is, in both directions; whether there was anything.
    pub fn pump(&mut self) -> Result<bool> {
        if self.stream.is_none() {
            // QEMU makes its socket before it runs the guest.
            let Ok(stream) = UnixStream::connect(&self.socket) else { return Ok(false) };
            stream.set_nonblocking(true)?;
            self.stream = Some(stream);
        }
        let mut moved = self.listen()?;
        while self.ready {
            let path = self.share.join(format!("{}.command", self.commands));
            let Ok(text) = fs::read_to_string(&path) else { break };
            self.send(&numbered(self.commands, &text)?)?;
            self.commands += 1;
            moved = true;
        }
        Ok(moved)
    }

    fn listen(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let mut any = false;
        loop {
            let Some(stream) = &mut self.stream else { return Ok(any) };
            match stream.read(&mut buffer) {
                // QEMU has ended, which is told elsewhere.
                Ok(0) => return Ok(any),
                Ok(n) => {
                    any = true;
                    self.partial.extend_from_slice(&buffer[..n]);
                    while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.partial.drain(..=end).collect();
                        self.take(&parse(&String::from_utf8_lossy(&line))?)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
                    return Ok(any);
                }
                Err(error) => return Err(error).context("cannot read what QEMU says"),
            }
        }
    }

    fn take(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Greeting => self.send("{\"execute\":\"qmp_capabilities\"}\n"),
            Message::Ready => {
                self.ready = true;
                Ok(())
            }
            Message::Answer(number, value) => self.put(&format!("{number}.answer"), value),
            Message::Event(value) => {
                self.put(&format!("{}.event", self.events), value)?;
                self.events += 1;
                Ok(())
            }
        }
    }

    fn put(&self, name: &str, value: &Value) -> Result<()> {
        let path = self.share.join(name);
        let partial = path.with_extension("partial");
        fs::write(&partial, value.to_string())
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Commands are short and few: the socket has room for them.
    fn send(&mut self, line: &str) -> Result<()> {
        let stream = self.stream.as_mut().context("QEMU's socket is gone")?;
        stream.write_all(line.as_bytes()).context("cannot send QEMU a command")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixListener,
    };

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(parse(r#"{"QMP": {"version": {}}}"#).unwrap(), Message::Greeting);
        assert_eq!(parse(r#"{"return": {}}"#).unwrap(), Message::Ready);
        assert!(matches!(parse(r#"{"return": {}, "id": 3}"#).unwrap(), Message::Answer(3, _)));
        assert!(matches!(parse(r#"{"id": 3, "error": {"class": "GenericError"}}"#).unwrap(), Message::Answer(3, _)));
        assert!(matches!(parse(r#"{"event": "DEVICE_DELETED", "data": {}}"#).unwrap(), Message::Event(_)));
        assert!(parse("hello").is_err());
        assert!(parse(r#"{"error": {}}"#).is_err());
    }

    #[test]
    fn a_command_keeps_its_arguments_and_gets_its_number() {
        let line = numbered(7, r#"{"execute":"device_del","arguments":{"id":"x"}}"#).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["id"].as_u64(), value["arguments"]["id"].as_str()), (Some(7), Some("x")));
        assert!(line.ends_with('\n'));
        assert!(numbered(7, "device_del x").is_err());
    }

    #[test]
    fn what_a_guest_asks_for_is_asked_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join(DIRECTORY);
        fs::create_dir(&share).unwrap();
        let socket = dir.path().join("socket");
        let mut bridge = Bridge::new(&socket, dir.path());
        fs::write(share.join("0.command"), r#"{"execute":"device_del"}"#).unwrap();
        assert!(!bridge.pump().unwrap(), "there is no QEMU yet");

        let listener = UnixListener::bind(&socket).unwrap();
        bridge.pump().unwrap();
        let (mut qemu, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(qemu.try_clone().unwrap()).lines();
        qemu.write_all(b"{\"QMP\":{}}\n").unwrap();
        bridge.pump().unwrap();
        assert!(lines.next().unwrap().unwrap().contains("qmp_capabilities"));
        // The answer comes in two pieces, and the guest's command goes out after it.
        qemu.write_all(b"{\"return\"").unwrap();
        bridge.pump().unwrap();
        qemu.write_all(b":{}}\n").unwrap();
        assert!(bridge.pump().unwrap());
        let sent = lines.next().unwrap().unwrap();
        assert!(sent.contains("device_del") && sent.contains("\"id\":0"), "{sent}");
        qemu.write_all(b"{\"event\":\"DEVICE_DELETED\"}\n{\"return\":{},\"id\":0}\n").unwrap();
        bridge.pump().unwrap();
        assert!(fs::read_to_string(share.join("0.answer")).unwrap().contains("return"));
        assert!(fs::read_to_string(share.join("0.event")).unwrap().contains("DEVICE_DELETED"));
        assert!(!bridge.pump().unwrap(), "each command is passed on once");
    }
}
