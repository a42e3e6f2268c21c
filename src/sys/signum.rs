//! The numbers of the signals that servers use: see [`Net::on_signal`](crate::Net::on_signal) and signal(7).

/// A child process has ended or stopped.
pub const CHLD: i32 = libc::SIGCHLD;
/// The terminal is closed; by custom also: read the configuration again. Ignored unless the reactor's options
/// say otherwise.
pub const HUP: i32 = libc::SIGHUP;
/// Interrupt from the keyboard.
pub const INT: i32 = libc::SIGINT;
/// A write to a pipe that nobody reads. Ignored unless the reactor's options say otherwise.
pub const PIPE: i32 = libc::SIGPIPE;
/// Quit from the keyboard.
pub const QUIT: i32 = libc::SIGQUIT;
/// Please end.
pub const TERM: i32 = libc::SIGTERM;
/// For the program's own use.
pub const USR1: i32 = libc::SIGUSR1;
/// For the program's own use.
pub const USR2: i32 = libc::SIGUSR2;
/// The terminal has another size.
pub const WINCH: i32 = libc::SIGWINCH;
