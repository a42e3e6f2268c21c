//! A hand-rolled, single-threaded epoll reactor.
#![deny(unsafe_code)]
mod sys;
mod token;
pub use token::Token;
