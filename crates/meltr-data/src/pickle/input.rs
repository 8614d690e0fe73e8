//! The bytes of one pickle, read in order and never beyond their end.

use std::io::{self, Read};

use super::opcode;

/// Why a pickle cannot be read; the path is added by the caller.
#[derive(Debug)]
pub(super) enum Fault {
    /// The content is wrong, at a byte of it if that is known.
    Format { at: Option<u64>, reason: String },
    /// The operating system refused.
    Io(io::Error),
}

/// A reader that knows how many bytes are left and which opcode is being read.
pub(super) struct Input<R> {
    reader: R,
    at: u64,
    len: u64,
    /// The current opcode and where it is.
    code: u8,
    start: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R, len: u64) -> Self {
        Self {
            reader,
            at: 0,
            len,
            code: 0,
            start: 0,
        }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The offset of the current opcode.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// An error at the current opcode.
    pub(super) fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::Format {
            at: Some(self.start),
            reason: reason.into(),
        }
    }

    /// An error that begins with the name of the current opcode.
    pub(super) fn opcode_fault(&self, reason: &str) -> Fault {
        self.fault(format!("opcode {} {reason}", opcode::name(self.code)))
    }

    /// The next opcode.
    pub(super) fn opcode(&mut self) -> Result<u8, Fault> {
        self.start = self.at;
        if self.at >= self.len {
            let reason = format!(
                "the data ends at byte {} without the STOP opcode at the end; it is cut off",
                self.len
            );
            return Err(self.fault(reason));
        }
        let [code] = self.filled::<1>()?;
        self.code = code;
        Ok(code)
    }

    /// The next `N` bytes of the current opcode.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        if self.left() < N as u64 {
            let reason = format!("is cut off, the data ends at byte {}", self.len);
            return Err(self.opcode_fault(&reason));
        }
        self.filled::<N>()
    }

    /// The next `declared` bytes; nothing is allocated before they are known to be there.
    pub(super) fn block(&mut self, declared: u64) -> Result<Vec<u8>, Fault> {
        let len = match usize::try_from(declared) {
            Ok(len) if declared <= self.left() => len,
            _ => {
                let reason = format!(
                    "declares length {declared}, but the data ends at byte {}, after {} bytes of it",
                    self.len,
                    self.left()
                );
                return Err(self.opcode_fault(&reason));
            }
        };
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes up to the next newline, without it.
    pub(super) fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        while self.at < self.len {
            let [byte] = self.filled::<1>()?;
            if byte == b'\n' {
                return Ok(bytes);
            }
            bytes.push(byte);
        }
        let reason = format!(
            "needs a newline after its text, but the data ends at byte {}",
            self.len
        );
        Err(self.opcode_fault(&reason))
    }

    /// Compares a frame with the bytes that are left.
    pub(super) fn check_frame(&self, declared: u64) -> Result<(), Fault> {
        if declared <= self.left() {
            return Ok(());
        }
        Err(self.fault(format!(
            "frame length {declared} goes beyond the end of the data at byte {}; the data is cut \
             off and its STOP opcode is missing",
            self.len
        )))
    }

    fn left(&self) -> u64 {
        self.len.saturating_sub(self.at)
    }

    fn filled<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads bytes that should be there.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.at = self.at.saturating_add(bytes.len() as u64);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Format {
                at: Some(self.at),
                reason: format!(
                    "the data ends before byte {}, where it should end",
                    self.len
                ),
            }),
            Err(error) => Err(Fault::Io(error)),
        }
    }
}
