//! A filter whose work can be seen: each byte is changed by its place, and the end has a farewell.
//!
//! A byte is masked by how many the filter has seen before it, so that one that passes twice, not at all or out of
//! order comes out wrong, and all behind it too.

use crate::filter::Filter;
use crate::sys::sim::chance::mixed;
use bytes::BytesMut;
use std::io;

/// What a filter says when its half ends.
pub const FAREWELL: &[u8] = b"bye";

/// Where a filter was put into a connection's streams, and whether our half was still to end then.
#[derive(Debug, Clone, Copy)]
pub struct Masked {
    /// The first byte of the input that it decodes. Behind everything while the callback runs that has put it there.
    pub input_from: u64,
    /// The first byte of the output that it encodes.
    pub output_from: u64,
    pub says_farewell: bool,
    /// See [`Mask`].
    pub block: u64,
}

impl Masked {
    /// How much of `sent` bytes of input comes out of it.
    pub fn whole_blocks(&self, sent: u64) -> u64 {
        sent - sent.saturating_sub(self.input_from) % self.block
    }
}

/// It decodes in whole blocks, as a cipher does, and leaves the rest until more comes.
#[derive(Debug)]
pub struct Mask {
    block: usize,
    decoded: u64,
    encoded: u64,
    /// What it has left: to be there the next time.
    left: Vec<u8>,
}

impl Mask {
    pub fn new(block: usize) -> Mask {
        Mask { block, decoded: 0, encoded: 0, left: Vec::new() }
    }
}

/// Changes a byte, or changes it back.
pub fn mask(byte: u8, place: u64) -> u8 {
    byte ^ mixed(place) as u8
}

/// What stands in `data`, which is that of a stream from `from` on, when all from `masked_from` on is masked.
pub fn mask_behind(data: &mut [u8], from: u64, masked_from: u64) {
    for (byte, at) in data.iter_mut().zip(from..) {
        if at >= masked_from {
            *byte = mask(*byte, at - masked_from);
        }
    }
}

impl Filter for Mask {
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, _reply: &mut BytesMut) -> io::Result<()> {
        if !wire.starts_with(&self.left) {
            return Err(io::Error::other("what the filter has left is not there"));
        }
        for byte in wire.split_to(wire.len() - wire.len() % self.block) {
            plain.extend_from_slice(&[mask(byte, self.decoded)]);
            self.decoded += 1;
        }
        self.left = wire.to_vec();
        Ok(())
    }

    fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
        for byte in plain {
            wire.extend_from_slice(&[mask(*byte, self.encoded)]);
            self.encoded += 1;
        }
        Ok(())
    }

    fn finish(&mut self, wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(FAREWELL);
        Ok(())
    }

    fn end(&mut self, wire: &[u8]) -> io::Result<()> {
        if wire == self.left {
            Ok(())
        } else {
            Err(io::Error::other("what the filter has left is not what it ends with"))
        }
    }
}
