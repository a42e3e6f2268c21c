//! The seam for transforms of the byte stream, such as TLS: a filter sits in the network, under the handler.
//!
//! A filter does no input or output itself. It is given bytes and gives bytes back, so it needs no socket to be
//! tested, and whoever sends on the connection, its own handler or another, sends through it.
//!
//! ```text
//!   kernel ──► wire ──decode──► plain ──► on_data          send ──encode──► output queue ──► kernel
//!                        └── reply ─────────────────────────────────────────────▲
//! ```

use bytes::BytesMut;
use std::fmt;
use std::io;

/// A transform of both directions of one connection: see [`Net::filter`](crate::Net::filter).
///
/// An error ends the connection with [`CloseReason::Error`](crate::CloseReason::Error).
pub trait Filter {
    /// Takes what it can use from the front of `wire` and appends what that means to `plain`. What the peer must
    /// be told for the transform's own sake (a handshake) is appended to `reply`.
    ///
    /// What is left in `wire` comes again with more behind it; it may hold as much as the connection's input
    /// limit.
    ///
    /// # Errors
    /// The bytes mean nothing.
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, reply: &mut BytesMut) -> io::Result<()>;

    /// Appends to `wire` what stands for `plain`, all of it; or keeps `plain` until the transform is ready for it
    /// and appends it in [`decode`](Filter::decode) to `reply`. What it keeps counts against no mark, and is lost when
    /// our half ends before it was appended: a filter that needs a handshake had better be given nothing until then.
    ///
    /// # Errors
    /// It cannot be sent.
    fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()>;

    /// Our half ends: appends a farewell, if the transform has one. What [`decode`](Filter::decode) appends to its
    /// `reply` from now on is dropped.
    ///
    /// # Errors
    /// The half cannot end in order.
    fn finish(&mut self, wire: &mut BytesMut) -> io::Result<()> {
        let _ = wire;
        Ok(())
    }

    /// The peer's half has ended on the wire; `wire` is what was left undecoded.
    ///
    /// # Errors
    /// The stream was cut: it ended without the transform's own end, or inside a record. Unless overridden, bytes
    /// left over are an error ([`io::ErrorKind::UnexpectedEof`]).
    fn end(&mut self, wire: &[u8]) -> io::Result<()> {
        if wire.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A filter in use.
pub(crate) struct Filtering {
    pub filter: Box<dyn Filter>,
    /// Received and not yet decoded.
    pub wire: BytesMut,
}

impl fmt::Debug for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtering").field("wire", &self.wire.len()).finish_non_exhaustive()
    }
}
