//! tokio: the current_thread runtime, and a task for each connection.

mod fan_out;

use super::{Options, READ_BYTES, Role, Side, first_frame, listener};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};

pub fn serve(side: Side, role: Role, options: &Options) -> io::Result<()> {
    let buffer = options.buffer.unwrap_or(READ_BYTES);
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::from_std(listener()?)?;
        match role {
            Role::Echo => echo(listener, buffer).await,
            Role::Frames => frames(listener, side == Side::TokioBuffered).await,
            Role::Relay => relay(listener, options.upstream()?, buffer).await,
            Role::FanOut => fan_out::serve(listener).await,
        }
    })
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    Ok(listener.accept().await?.0)
}

// What ends a connection is its task's result, and nobody asks for it.

async fn echo(listener: TcpListener, buffer: usize) -> io::Result<()> {
    loop {
        tokio::spawn(echo_peer(accept(&listener).await?, buffer));
    }
}

async fn echo_peer(mut stream: TcpStream, buffer: usize) -> io::Result<()> {
    // Nothing is read into it before it is written by the kernel: zeroing 64 KiB would be most of what a connection costs.
    let mut buffer = Vec::with_capacity(buffer);
    loop {
        match stream.read_buf(&mut buffer).await? {
            0 => return Ok(()),
            _ => stream.write_all(&buffer).await?,
        }
        buffer.clear();
    }
}

async fn frames(listener: TcpListener, buffered: bool) -> io::Result<()> {
    loop {
        let stream = accept(&listener).await?;
        if buffered {
            tokio::spawn(frames_peer(BufWriter::with_capacity(READ_BYTES, stream)));
        } else {
            tokio::spawn(frames_peer(stream));
        }
    }
}

/// One `write_all` for each frame. A bare stream makes a call of it; a `BufWriter` gathers until the flush, which comes
/// when no whole frame is left, and which a bare stream does not need or notice.
async fn frames_peer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut input = vec![0; READ_BYTES];
    // The part of a frame that waits for its rest lies in front.
    let mut held = 0;
    loop {
        let n = stream.read(&mut input[held..]).await?;
        if n == 0 {
            return Ok(());
        }
        let end = held + n;
        let mut start = 0;
        while let Some(frame) = first_frame(&input[start..end])? {
            stream.write_all(frame).await?;
            start += frame.len();
        }
        stream.flush().await?;
        input.copy_within(start..end, 0);
        held = end - start;
    }
}

async fn relay(listener: TcpListener, upstream: SocketAddr, buffer: usize) -> io::Result<()> {
    loop {
        tokio::spawn(relay_pair(accept(&listener).await?, upstream, buffer));
    }
}

async fn relay_pair(mut client: TcpStream, upstream: SocketAddr, buffer: usize) -> io::Result<()> {
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, buffer, buffer).await?;
    Ok(())
}
