//! Where a socket is, or where its peer is: IPv4, IPv6 or Unix, in one type.
//!
//! ```text
//!   text                      Address              kernel (the file next to this one)
//!   127.0.0.1:80, [::1]:80    Ip                   sockaddr_in, sockaddr_in6
//!   unix:/run/x.sock          Path       32 bytes  sockaddr_un, a path
//!   unix:@name                Abstract             sockaddr_un, a NUL and a name
//!   unix:                     Unnamed              sockaddr_un, nothing
//! ```
//!
//! The rule that is kept: text is taken as it stands and can be read back. Nothing here asks a resolver, except
//! [`resolve`], which says so and blocks. A mistake is answered with the right spelling, since most addresses
//! are typed by people into configuration.

use super::socket::Family;
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

/// The place of a socket.
///
/// # Text
///
/// [`Display`](fmt::Display) writes and [`FromStr`] reads:
///
/// | text | meaning |
/// |---|---|
/// | `127.0.0.1:80` | IPv4 |
/// | `[::1]:80`, `[fe80::1%2]:80` | IPv6, with the number of an interface for link-local addresses |
/// | `unix:/run/x.sock` | a path in the file system |
/// | `unix:@name` | a name in Linux's abstract space, which is no file and vanishes with its socket |
/// | `unix:` | a Unix socket without a name |
///
/// In paths and names a byte that is not printable text is written `\xHH`, a backslash `\\`, and the `@` at the
/// start of a relative path `\x40`. Only an IPv6 flow label is lost in the text.
///
/// # Examples
///
/// ```
/// use plimsoll::Address;
/// let address: Address = "[::1]:80".parse()?;
/// assert_eq!(address.port(), Some(80));
/// assert!("unix:@relay".parse::<Address>()?.is_unix());
/// assert!("localhost:80".parse::<Address>().is_err(), "a name is not an address");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address and a port. A dual-stack IPv6 socket names its IPv4 peers in the mapped form
    /// (`::ffff:192.0.2.1`), which is left as it is: only in that form can the same socket answer.
    Ip(SocketAddr),
    /// A Unix socket in the file system; at most 107 bytes, none of them NUL.
    Path(Box<Path>),
    /// A Unix socket in the abstract space: the name without the NUL that leads it in the kernel's form. At
    /// most 107 bytes of any value.
    Abstract(Box<[u8]>),
    /// A Unix socket without a name, as the connecting side usually is. To bind to it means to let the kernel
    /// choose an abstract name; to send to it, to send to the peer that a datagram socket is connected to.
    Unnamed,
}

/// `sun_path` has 108 bytes. An abstract name begins with a NUL, and a path ends with one: the kernel could do
/// without the latter, but most programs that are told such a path could not.
pub(super) const NAME_BYTES_LIMIT: usize = 107;

impl Address {
    /// The address and port, unless it is a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            _ => None,
        }
    }

    /// The port, unless it is a Unix socket.
    pub fn port(&self) -> Option<u16> {
        self.ip().map(|address| address.port())
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        !matches!(self, Address::Ip(_))
    }

    /// The kind of socket that can have this address.
    pub(crate) fn family(&self) -> Family {
        match self {
            Address::Ip(SocketAddr::V4(_)) => Family::V4,
            Address::Ip(SocketAddr::V6(_)) => Family::V6,
            _ => Family::Unix,
        }
    }

    /// Errors name the limit that was crossed, in our words: the kernel would say EINVAL.
    pub(super) fn check(&self) -> io::Result<()> {
        let (kind, bytes) = match self {
            Address::Path(path) => ("path", path.as_os_str().as_bytes()),
            Address::Abstract(name) => ("name", &name[..]),
            Address::Ip(_) | Address::Unnamed => return Ok(()),
        };
        let len = bytes.len();
        if len > NAME_BYTES_LIMIT {
            return Err(invalid(format!("`{self}`: a Unix {kind} has at most {NAME_BYTES_LIMIT} bytes, not {len}")));
        }
        match self {
            Address::Path(_) if bytes.is_empty() => Err(invalid("the path of a Unix socket is empty".into())),
            Address::Path(_) if bytes.contains(&0) => {
                Err(invalid(format!("`{self}`: a path cannot contain a NUL byte")))
            }
            _ => Ok(()),
        }
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Address {
        address.clone()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Address {
        Address::Ip(address.into())
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Address {
        Address::Ip(address.into())
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(pair: (I, u16)) -> Address {
        Address::Ip(pair.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unnamed => f.write_str("unix:"),
            Address::Abstract(name) => {
                f.write_str("unix:@")?;
                escape(name, f)
            }
            Address::Path(path) => {
                f.write_str("unix:")?;
                match path.as_os_str().as_bytes() {
                    [b'@', rest @ ..] => {
                        f.write_str("\\x40")?;
                        escape(rest, f)
                    }
                    bytes => escape(bytes, f),
                }
            }
        }
    }
}

/// The same as `Display`: an address is easier to read than the enum around it.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes text as it is, and as `\xHH` what is not text or would not be seen as what it is: a peer chooses its
/// own name, and a log line must stay one line.
fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                // What Rust's own debug form would escape, apart from quotes.
                _ if char.is_control() || (!char.is_ascii() && char.escape_debug().len() > 1) => {
                    let mut utf8 = [0; 4];
                    for byte in char.encode_utf8(&mut utf8).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                }
                _ => f.write_char(char)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// The inverse of [`escape`]; `None` for a backslash that begins neither of the two forms.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        (rest, _) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => (tail, bytes.push(b'\\')),
            (b'\\', [b'x', high, low, tail @ ..]) => (tail, bytes.push(hex(*high)? << 4 | hex(*low)?)),
            (b'\\', _) => return None,
            _ => (tail, bytes.push(*first)),
        };
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Errors are of the kind `InvalidInput`, and their text says what was expected instead.
impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Address> {
        let Some(name) = text.strip_prefix("unix:") else {
            return text.parse().map(Address::Ip).map_err(|_| invalid(diagnosis(text)));
        };
        let bytes = |text| {
            unescape(text).ok_or_else(|| {
                invalid(format!("`{name}`: a backslash begins `\\\\` or `\\x` and two hexadecimal digits"))
            })
        };
        let address = match name.strip_prefix('@') {
            Some(name) => Address::Abstract(bytes(name)?.into()),
            None if name.is_empty() => Address::Unnamed,
            None => Address::Path(Path::new(OsStr::from_bytes(&bytes(name)?)).into()),
        };
        address.check()?;
        Ok(address)
    }
}

/// What is wrong with a text that is not an IP address with a port.
fn diagnosis(text: &str) -> String {
    const FORMS: &str = "expected `127.0.0.1:80`, `[::1]:80`, `unix:/path` or `unix:@name`";
    if text.is_empty() {
        return format!("the address is empty: {FORMS}");
    }
    if text.starts_with(['/', '.', '@']) {
        return format!("`{text}`: a Unix socket is written `unix:{text}`");
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        let hint = format!("`{text}` has no port: an IPv6 address with a port is written `[{text}]:80`");
        // Its last group may have been meant as one.
        return match text.rsplit_once(':') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
                format!("{hint}, or `[{host}]:{port}` if {port} is the port")
            }
            _ => hint,
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return format!("`{text}` has no port: {FORMS}");
    };
    if port.parse::<u16>().is_err() {
        return format!("`{text}`: `{port}` is not a port, a number from 0 to 65535");
    }
    if host.is_empty() {
        return format!("`{text}` has no host: for every interface write `0.0.0.0{text}` or `[::]{text}`");
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return format!("`{text}`: an IPv6 address with a port is written `[{host}]:{port}`");
    }
    if host.starts_with('[') {
        return format!(
            "`{text}`: `{host}` is not an IPv6 address in brackets, with the number of an interface after `%`, if any"
        );
    }
    format!("`{text}`: `{host}` is not a numeric address, and names are not looked up here")
}

/// What can be taken for an address without asking anybody: no name is looked up.
///
/// # Errors
/// `InvalidInput`, with a text that names what was wrong.
pub trait ToAddress {
    /// The address that is meant.
    ///
    /// # Errors
    /// `InvalidInput`, with a text that names what was wrong.
    fn to_address(&self) -> io::Result<Address>;
}

impl<T: ToAddress + ?Sized> ToAddress for &T {
    fn to_address(&self) -> io::Result<Address> {
        (**self).to_address()
    }
}

impl ToAddress for str {
    fn to_address(&self) -> io::Result<Address> {
        self.parse()
    }
}

impl ToAddress for String {
    fn to_address(&self) -> io::Result<Address> {
        self.parse()
    }
}

impl ToAddress for Address {
    fn to_address(&self) -> io::Result<Address> {
        self.check()?;
        Ok(self.clone())
    }
}

/// A host and a port, where the host is an IPv4 address or an IPv6 address with or without brackets.
impl ToAddress for (&str, u16) {
    fn to_address(&self) -> io::Result<Address> {
        let (host, port) = *self;
        match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}").parse(),
            false => format!("{host}:{port}").parse(),
        }
    }
}

/// `ToAddress` for types of which every value is an address.
macro_rules! always_an_address {
    ($($type:ty),*) => {$(
        impl ToAddress for $type {
            fn to_address(&self) -> io::Result<Address> {
                Ok(Address::from(*self))
            }
        }
    )*};
}

always_an_address!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

/// How often [`resolve`] starts anew after a signal. A process that gets more of them than that during look-ups
/// has an error to see.
const INTERRUPTIONS_LIMIT: u32 = 16;

/// Every address of `host`, in the order in which they should be tried (RFC 6724). **Blocks**, for seconds if a
/// name server is silent: this is for worker threads.
///
/// A look-up that a signal interrupted is started again, since half a look-up is nothing a caller could go on from.
///
/// # Errors
/// The resolver's own, as text: no such name, no answer; also a host name with a NUL byte.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut interruptions = 0;
    loop {
        match look_up(host, port) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && interruptions < INTERRUPTIONS_LIMIT => {
                interruptions += 1;
            }
            answer => return answer,
        }
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    seam!(look_up(host, port));
    (host, port).to_socket_addrs().map(Iterator::collect)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn path(text: &str) -> Address {
        Address::Path(Path::new(text).into())
    }

    fn complaint(text: &str) -> String {
        let error = text.parse::<Address>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        error.to_string()
    }

    pub fn addresses() -> impl Strategy<Value = Address> {
        let v4 = (any::<Ipv4Addr>(), any::<u16>()).prop_map(Address::from);
        let v6 = (any::<Ipv6Addr>(), any::<u16>(), any::<u32>())
            .prop_map(|(ip, port, scope)| SocketAddrV6::new(ip, port, 0, scope).into());
        let name =
            prop::collection::vec(any::<u8>(), 0..=NAME_BYTES_LIMIT).prop_map(|name| Address::Abstract(name.into()));
        let bytes = prop::collection::vec(1..=u8::MAX, 1..=NAME_BYTES_LIMIT);
        let text = "[@/\\\\x40 éß\u{202e}\u{200b}a-z.]{1,26}".prop_map(String::into_bytes);
        let path = prop_oneof![bytes, text].prop_map(|path| Address::Path(Path::new(OsStr::from_bytes(&path)).into()));
        prop_oneof![v4, v6, name, path, Just(Address::Unnamed)]
    }

    /// Paths compare by component; here every byte counts.
    pub fn bytes_of(address: &Address) -> Option<&[u8]> {
        match address {
            Address::Path(path) => Some(path.as_os_str().as_bytes()),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn text_is_read_back_as_what_was_written(address in addresses()) {
            let text = address.to_string();
            let back: Address = text.parse().unwrap();
            prop_assert_eq!(&back, &address);
            prop_assert_eq!(bytes_of(&back), bytes_of(&address));
            prop_assert!(!text.contains(char::is_control));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Address>();
            let _ = format!("unix:{text}").parse::<Address>();
            let _ = (text.as_str(), 1).to_address();
        }

    }

    #[test]
    fn an_address_is_as_small_as_an_ip_address_alone() {
        assert_eq!(size_of::<Address>(), 32);
        assert_eq!(size_of::<Option<Address>>(), 32);
    }

    #[test]
    fn every_form_has_its_text() {
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "[fe80::1%3]:80",
            "[::ffff:192.0.2.1]:9",
            "unix:/run/x",
            "unix:@name",
            "unix:",
            "unix:@",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(path("@a").to_string(), "unix:\\x40a");
        assert_eq!(path("a\nb\\c d'\"é").to_string(), "unix:a\\x0ab\\\\c d'\"é");
        assert_eq!(Address::Abstract([0, 0xff][..].into()).to_string(), "unix:@\\x00\\xff");
        assert_eq!("unix:".parse::<Address>().unwrap(), Address::Unnamed);
        assert_eq!("unix:@".parse::<Address>().unwrap(), Address::Abstract([][..].into()));
    }

    #[test]
    fn what_the_kernels_form_cannot_hold_is_refused_in_words() {
        for (address, words) in [
            (path(&"x".repeat(108)), "at most 107 bytes, not 108"),
            (Address::Abstract(vec![b'x'; 108].into()), "at most 107 bytes, not 108"),
            (path("a\0b"), "cannot contain a NUL byte"),
            (path(""), "is empty"),
        ] {
            let error = address.check().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(address.to_address().unwrap_err().to_string(), error.to_string());
        }
        assert!(complaint(&format!("unix:/{}", "x".repeat(107))).contains("at most 107"));
        assert!(complaint("unix:a\\x00b").contains("NUL"));
    }

    #[test]
    fn a_mistake_is_answered_with_the_right_spelling() {
        for (text, words) in [
            ("", "the address is empty"),
            ("127.0.0.1", "has no port"),
            ("::1", "is written `[::1]:80`"),
            ("::1:0", "is written `[::1:0]:80`, or `[::1]:0` if 0 is the port"),
            ("fe80::1%2:80", "`fe80::1%2` is not a numeric address"),
            ("2001:db8::1:99999", "`99999` is not a port"),
            (":80", "`0.0.0.0:80` or `[::]:80`"),
            ("1.2.3.4:99999", "`99999` is not a port"),
            ("1.2.3.4:", "`` is not a port"),
            ("localhost:80", "names are not looked up here"),
            ("[fe80::1%eth0]:80", "the number of an interface"),
            ("/run/x.sock", "is written `unix:/run/x.sock`"),
            ("@name", "is written `unix:@name`"),
            ("unix:\\q", "a backslash begins"),
            ("unix:\\x4", "a backslash begins"),
        ] {
            assert!(complaint(text).contains(words), "{text}: {}", complaint(text));
        }
    }

    #[test]
    fn whatever_names_an_address_is_one() {
        let v4: Address = "127.0.0.1:80".parse().unwrap();
        let v6: Address = "[::1]:80".parse().unwrap();
        let same = |name: &dyn ToAddress, address: &Address| assert_eq!(&name.to_address().unwrap(), address);
        same(&"127.0.0.1:80", &v4);
        same(&String::from("127.0.0.1:80"), &v4);
        same(&v4, &v4);
        same(&&v4, &v4);
        same(&v4.ip().unwrap(), &v4);
        same(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80), &v4);
        same(&SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 0), &v6);
        same(&(IpAddr::V4(Ipv4Addr::LOCALHOST), 80), &v4);
        same(&(Ipv4Addr::LOCALHOST, 80), &v4);
        same(&(Ipv6Addr::LOCALHOST, 80), &v6);
        same(&("127.0.0.1", 80), &v4);
        same(&("::1", 80), &v6);
        same(&("[::1]", 80), &v6);
        same(&("fe80::1%2", 80), &SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 2).into());
        assert!(("localhost", 80).to_address().is_err());
        assert_eq!(Address::from(&v6), v6, "for what takes `impl Into<Address>`, such as `send_to`");
    }

    #[test]
    fn a_number_resolves_to_itself() {
        assert_eq!(resolve("127.0.0.1", 80).unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(resolve("::1", 80).unwrap(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(resolve("a\0b", 80).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
