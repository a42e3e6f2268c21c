//! Fan-out on tokio: one broadcast channel, from which each subscriber's task takes at its own pace.

use super::super::{READ_BYTES, SUBSCRIBER_MAX_BYTES, whole_frames};
use super::accept;
use bytes::Bytes;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender};

/// Bursts that the channel keeps. A subscriber that is further behind loses the oldest, each as a whole.
const BURSTS: usize = SUBSCRIBER_MAX_BYTES / 1024;

pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let room = Sender::new(BURSTS);
    loop {
        tokio::spawn(guest(accept(&listener).await?, room.clone()));
    }
}

async fn guest(mut stream: TcpStream, room: Sender<Bytes>) -> io::Result<()> {
    match stream.read_u8().await? {
        b'S' => subscriber(stream, room.subscribe()).await,
        b'P' => publisher(stream, room).await,
        _ => Ok(()),
    }
}

async fn publisher(mut stream: TcpStream, room: Sender<Bytes>) -> io::Result<()> {
    let mut input = vec![0; READ_BYTES];
    // The part of a frame that waits for its rest lies in front.
    let mut held = 0;
    loop {
        let n = stream.read(&mut input[held..]).await?;
        if n == 0 {
            return Ok(());
        }
        let end = held + n;
        let whole = whole_frames(&input[..end])?;
        if whole > 0 {
            // An error says that nobody listens.
            let _ = room.send(Bytes::copy_from_slice(&input[..whole]));
        }
        input.copy_within(whole..end, 0);
        held = end - whole;
    }
}

/// What waits already is gathered into one write. A subscriber that is gone is noticed by the next write.
async fn subscriber(stream: TcpStream, mut room: Receiver<Bytes>) -> io::Result<()> {
    let mut stream = BufWriter::new(stream);
    loop {
        match room.recv().await {
            Ok(burst) => stream.write_all(&burst).await?,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        }
        loop {
            match room.try_recv() {
                Ok(burst) => stream.write_all(&burst).await?,
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        stream.flush().await?;
    }
}
