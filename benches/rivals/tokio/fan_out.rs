//! Fan-out on tokio: a bounded channel for each subscriber, and a task that writes what comes out of it.
//!
//! One broadcast channel for all would be shorter. It was tried, and took 8 % more instructions for each delivery: its
//! slots are shared, so every receiver locks the one that it reads.

use super::super::{READ_BYTES, whole_frames};
use super::accept;
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bursts that may wait for a subscriber: a channel counts what it holds and does not weigh it. Over it the newest is
/// lost, as a whole.
const BURSTS: usize = 1024;

/// Locked without waiting, since all tasks are on one thread, and never across an await.
type Room = Arc<Mutex<Vec<Sender<Bytes>>>>;

pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let room = Room::default();
    loop {
        tokio::spawn(guest(accept(&listener).await?, Arc::clone(&room)));
    }
}

async fn guest(mut stream: TcpStream, room: Room) -> io::Result<()> {
    match stream.read_u8().await? {
        b'S' => {
            let (sender, bursts) = channel(BURSTS);
            room.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            subscriber(stream, bursts).await
        }
        b'P' => publisher(stream, room).await,
        _ => Ok(()),
    }
}

async fn publisher(mut stream: TcpStream, room: Room) -> io::Result<()> {
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
            let burst = Bytes::copy_from_slice(&input[..whole]);
            let stays =
                |subscriber: &Sender<_>| !matches!(subscriber.try_send(burst.clone()), Err(TrySendError::Closed(_)));
            room.lock().unwrap_or_else(PoisonError::into_inner).retain(stays);
        }
        input.copy_within(whole..end, 0);
        held = end - whole;
    }
}

/// What waits already is gathered into one write. A subscriber that is gone is noticed when a write fails.
async fn subscriber(stream: TcpStream, mut bursts: Receiver<Bytes>) -> io::Result<()> {
    let mut stream = BufWriter::new(stream);
    while let Some(burst) = bursts.recv().await {
        stream.write_all(&burst).await?;
        while let Ok(burst) = bursts.try_recv() {
            stream.write_all(&burst).await?;
        }
        stream.flush().await?;
    }
    Ok(())
}
