//! Decompresses layers ahead of who reads them, each on a thread of its own: while one is
//! written to disk, it and the next ones are decompressed.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Layers that are decompressed at once.
pub(super) const LAYERS: usize = 4;
/// Bytes that are handed over at once.
const PIECE: usize = 256 << 10;
/// Pieces of a layer that wait to be read: with [`LAYERS`] and [`PIECE`], 32 MiB in all.
const PIECES: usize = 32;

/// What a layer decompresses to, as it comes.
pub(super) struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

/// Where the bytes go in, and where they come out.
pub(super) fn pipe() -> (SyncSender<io::Result<Vec<u8>>>, Ahead) {
    let (to, pieces) = sync_channel(PIECES);
    (to, Ahead { pieces, piece: Vec::new(), at: 0 })
}

/// Hands over all of `tar`, or what it fails with; less, when nobody reads any more.
pub(super) fn hand_over(tar: io::Result<impl Read>, to: &SyncSender<io::Result<Vec<u8>>>) {
    let mut tar = match tar {
        Ok(tar) => tar,
        Err(error) => return drop(to.send(Err(error))),
    };
    loop {
        let mut piece = vec![0; PIECE];
        let mut length = 0;
        let ended = loop {
            match tar.read(&mut piece[length..]) {
                Ok(0) => break Some(Ok(())),
                Ok(read) => length += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Some(Err(error)),
            }
            if length == PIECE {
                break None;
            }
        };
        piece.truncate(length);
        if length > 0 && to.send(Ok(piece)).is_err() {
            return;
        }
        match ended {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => return drop(to.send(Err(error))),
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                // All was handed over.
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }

    #[test]
    fn all_comes_and_errors_behind_it() {
        let long: Vec<u8> = (0..PIECE as u32 * 40 + 7).map(|n| (n >> 5) as u8).collect();
        thread::scope(|scope| {
            let (to, mut ahead) = pipe();
            let source = &long;
            scope.spawn(move || hand_over(Ok(source.chain(Broken)), &to));
            let mut found = vec![0; long.len()];
            ahead.read_exact(&mut found).expect("all of it");
            assert!(found == long);
            assert_eq!(ahead.read(&mut [0]).expect_err("an error").to_string(), "broken");
        });
    }

    #[test]
    fn who_reads_no_more_ends_it() {
        let (to, ahead) = pipe();
        drop(ahead);
        hand_over(Ok(io::repeat(1)), &to);
    }
}
