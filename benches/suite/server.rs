//! Servers: a side, started fresh for a round, and its peers.
//!
//! ```text
//!  server  prints  listening on 127.0.0.1:PORT     serves until it is told to end
//!  load    prints  ready                           is told PORT and PID, works, prints one Sample as JSON, ends
//!          or      upstream 127.0.0.1:PORT         where the peers are the upstream of a relay as well
//! ```
//!
//! Each round has a server of its own: memory that one round has left behind is not the next one's head start.

use crate::process::{Process, Stdout};
use crate::result::Sample;
use crate::rivals::Role;
use clap::ValueEnum;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program may take to say what it says first. Under valgrind a start takes seconds.
const STARTING: Duration = Duration::from_secs(30);

/// Which processors the two have. Empty: any.
#[derive(Clone, Debug, Default)]
pub struct Cores {
    pub server: Vec<usize>,
    pub load: Vec<usize>,
}

/// Something that can serve.
#[derive(Clone, Debug)]
pub enum Side {
    /// One of `rivals/`. `tokio-16k` is the side `tokio` with a buffer of 16 KiB, `tokio+sleeper` one whose peers get
    /// the option `--sleeper`: the same server beside other company, in the same cell and so in the same rounds.
    Ours(String),
    /// A server of the reader's own.
    Theirs { name: String, command: Vec<String> },
}

impl Side {
    pub fn ours(name: &str) -> Side {
        Side::Ours(name.to_owned())
    }

    pub fn name(&self) -> &str {
        match self {
            Side::Ours(name) | Side::Theirs { name, .. } => name,
        }
    }

    /// What the peers of this side are told beside what those of all are told.
    fn load_option(&self) -> Option<String> {
        match self {
            Side::Ours(name) => name.split_once('+').map(|(_, option)| format!("--{option}")),
            Side::Theirs { .. } => None,
        }
    }
}

impl FromStr for Side {
    type Err = String;

    /// `NAME=COMMAND {port}`. The command is a program and its arguments, so that the process that is measured is the
    /// server and no shell.
    fn from_str(text: &str) -> Result<Side, String> {
        let (name, command) = text.split_once('=').ok_or("it is NAME='COMMAND {port}'")?;
        if name.is_empty() || !command.contains("{port}") {
            return Err("it is NAME='COMMAND {port}', and {port} is where the port is filled in".to_owned());
        }
        Ok(Side::Theirs { name: name.to_owned(), command: command.split_whitespace().map(str::to_owned).collect() })
    }
}

/// A server that listens.
pub struct Server {
    pub process: Process,
    pub port: u16,
}

impl Server {
    /// Starts one, under a tool (`valgrind …`) if any is given.
    pub fn start(
        side: &Side,
        role: Role,
        upstream: Option<SocketAddr>,
        tool: &[String],
        cores: &Cores,
    ) -> io::Result<Server> {
        match side {
            Side::Ours(name) => Server::start_ours(name, role, upstream, tool, cores),
            Side::Theirs { name, command } => Server::start_theirs(name, command, cores),
        }
    }

    fn start_ours(
        name: &str,
        role: Role,
        upstream: Option<SocketAddr>,
        tool: &[String],
        cores: &Cores,
    ) -> io::Result<Server> {
        let mut program = tool.to_vec();
        program.extend([this_program()?, "serve".to_owned()]);
        let (side, buffer_bytes) = buffer_of(name);
        let role = role.to_possible_value().expect("no role is hidden");
        program.extend([side.to_owned(), role.get_name().to_owned()]);
        if let Some(bytes) = buffer_bytes {
            program.extend(["--buffer".to_owned(), bytes.to_string()]);
        }
        if let Some(upstream) = upstream {
            program.extend(["--upstream".to_owned(), upstream.to_string()]);
        }
        let mut process = Process::start(name, &cores.server, Stdout::Heard, &program)?;
        let line = process.line(STARTING)?;
        if !tool.is_empty() {
            process.look_inside();
        }
        let port = line.strip_prefix("listening on ").and_then(|address| address.parse::<SocketAddr>().ok());
        match port {
            Some(address) => Ok(Server { process, port: address.port() }),
            None => Err(process.fault(&format!("does not say where it listens, but {line:?}"))),
        }
    }

    fn start_theirs(name: &str, command: &[String], cores: &Cores) -> io::Result<Server> {
        // It was free a moment ago, and in a network of our own nobody else takes it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let program: Vec<String> = command.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
        let mut process = Process::start(name, &cores.server, Stdout::Ignored, &program)?;
        let deadline = Instant::now() + STARTING;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if process.has_ended() || Instant::now() > deadline {
                return Err(process.fault(&format!("does not listen on 127.0.0.1:{port}")));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(Server { process, port })
    }
}

/// The peers of a server.
pub struct Load {
    pub process: Process,
    /// Where a relay is to connect to, if they are its upstream.
    pub upstream: Option<SocketAddr>,
}

impl Load {
    pub fn start(load: &[String], cores: &Cores) -> io::Result<Load> {
        let mut program = vec![this_program()?, "load".to_owned()];
        program.extend_from_slice(load);
        let mut process = Process::start("the load", &cores.load, Stdout::Heard, &program)?;
        let line = process.line(STARTING)?;
        let upstream = line.strip_prefix("upstream ").and_then(|address| address.parse().ok());
        match (line.as_str(), upstream) {
            ("ready", _) | (_, Some(_)) => Ok(Load { process, upstream }),
            _ => Err(process.fault(&format!("is not ready, but says {line:?}"))),
        }
    }

    /// Sends them to the server.
    pub fn go(&mut self, server: &Server) -> io::Result<()> {
        self.process.tell(&format!("{} {}", server.port, server.process.pid()))
    }

    /// What they found, when they are through.
    pub fn sample(mut self, patience: Duration) -> io::Result<Sample> {
        let line = self.process.line(patience)?;
        let sample = serde_json::from_str(&line);
        let sample = sample.map_err(|e| self.process.fault(&format!("says {line:?}, which is no sample: {e}")))?;
        self.process.end(STARTING)?;
        Ok(sample)
    }
}

/// One round: a fresh server, one load, and the end of both.
pub fn serve_once(
    side: &Side,
    role: Role,
    load: &[String],
    tool: &[String],
    cores: &Cores,
    patience: Duration,
) -> io::Result<Sample> {
    let words: Vec<String> = load.iter().cloned().chain(side.load_option()).collect();
    let mut load = Load::start(&words, cores)?;
    let mut server = Server::start(side, role, load.upstream, tool, cores)?;
    let descriptors = if tool.is_empty() { 0 } else { server.process.descriptors()? };
    load.go(&server)?;
    let sample = load.sample(patience).map_err(|e| blame(e, &mut server))?;
    // What is counted is counted to the end of each connection: else the last ones would be part of one run and not of
    // another. On tokio's fan-out only a failed write says that a subscriber is gone; but there it is writes that are
    // counted, and an end has none.
    if !tool.is_empty() && role != Role::FanOut {
        server.process.wait_for_descriptors(descriptors, STARTING)?;
    }
    server.process.stop()?;
    Ok(sample)
}

/// Where the load has failed because the server has ended, it is the server's complaint that tells why.
fn blame(e: io::Error, server: &mut Server) -> io::Error {
    if server.process.has_ended() { io::Error::other(format!("{e}; {}", server.process.fault("ended"))) } else { e }
}

pub fn this_program() -> io::Result<String> {
    let program = std::env::current_exe()?;
    program.into_os_string().into_string().map_err(|_| io::Error::other("this program has a path that is no UTF-8"))
}

/// The side and the buffer that a name means.
fn buffer_of(name: &str) -> (&str, Option<usize>) {
    let name = name.split_once('+').map_or(name, |(server, _)| server);
    let kib = |(side, kib): (&'_ str, &str)| Some((side.len(), kib.strip_suffix('k')?.parse::<usize>().ok()?));
    match name.rsplit_once('-').and_then(kib) {
        Some((len, kib)) => (&name[..len], Some(kib * 1024)),
        None => (name, None),
    }
}
