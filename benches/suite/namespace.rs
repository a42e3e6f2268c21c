//! The namespace: a network of our own, in which nobody else has a say.
//!
//! A loopback interface has properties that belong to the machine: which congestion control (some pace even
//! loopback), how many ports, which firewall rules every packet walks through. In a network namespace of its own a
//! process may set them as it likes, and nobody notices. Making one takes root, or a user namespace, in which
//! everybody is root.
//!
//! The driver does not have to start itself anew for it: while it has one thread, it steps across, and whatever
//! it starts is born there. Where it may not, the suite runs where it is, and the report says so.
//!
//! There is no way back, and some systems let a process into a network of its own and then keep it from bringing up
//! what is in there. So a child tries first.

#![expect(unsafe_code, reason = "an interface is brought up by ioctl, for which there is no safe call")]

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Uid, getegid, geteuid};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Steps into a network of its own with reno and all ports. To be called before there is any thread.
///
/// Says what could not be had.
///
/// # Errors
/// It could not, and a child could: we may be where there is no loopback.
pub fn enter() -> io::Result<(bool, Vec<String>)> {
    if let Err(e) = try_it() {
        let complaint = format!("no network namespace of our own ({e}): loopback is as the machine has set it");
        return Ok((false, vec![complaint]));
    }
    cross()?;
    let settings = [
        (CONGESTION_CONTROL, "reno"),
        // Ended connections hold their port for a while, and there are tens of thousands of them.
        ("/proc/sys/net/ipv4/ip_local_port_range", "2048 65535"),
    ];
    let set = |(path, value)| fs::write(path, value).err().map(|e| format!("{path} could not be set to {value}: {e}"));
    Ok((true, settings.into_iter().filter_map(set).collect()))
}

/// Steps into a network of its own whose loopback is up.
pub fn cross() -> io::Result<()> {
    step_across().and_then(|()| bring_up_loopback())
}

/// Whether it can be done, by a child (`suite cross`), whose loss it is if it cannot.
fn try_it() -> io::Result<()> {
    let child = Command::new(std::env::current_exe()?).arg("cross").stdin(Stdio::null()).output()?;
    if child.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&child.stderr);
    Err(io::Error::other(complaint.trim().trim_start_matches("suite: ").to_owned()))
}

/// What connections made now use.
pub fn congestion_control() -> String {
    fs::read_to_string(CONGESTION_CONTROL).map_or("unknown".to_owned(), |name| name.trim().to_owned())
}

fn step_across() -> io::Result<()> {
    if Uid::effective().is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    // We remain who we are. The privileges that we need we have until the next exec.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// The only interface of a new network is down.
fn bring_up_loopback() -> io::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which all zeroes is a value: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open, and SIOCSIFFLAGS reads an ifreq, which this is, and writes none.
    match unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
