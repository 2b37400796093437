//! Commands, receipts and parts of documents as they travel: framed, and the first two signed.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use super::{
    ACTIONS, Action, COMMAND_MAX, Command, CommandId, KeyId, PART_HEAD_MAX, PART_MAX, PublicKey, RECEIPT_MAX,
    Receipt, Refusal, Signature, Until, VERSION,
};
use crate::wire::{DEVICE_MAX, DecodeError, TooLarge};

/// What is signed begins with one of these, so that no signature is good for the other kind.
const COMMAND_WORD: &[u8] = b"glg command 1:";
const RECEIPT_WORD: &[u8] = b"glg receipt 1:";
const WORD_BYTES: usize = COMMAND_WORD.len();

/// What is signed of a command: at most so long.
pub type SignedBytes = Vec<u8, { WORD_BYTES + RECEIPT_MAX }>;

/// A command as it travels, not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Which key is said to have signed it.
    pub key: KeyId,
    /// Its signature.
    pub signature: &'a Signature,
    payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// Takes the frame apart.
    ///
    /// # Errors
    /// [`Refusal::Oversized`], [`Refusal::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Received<'a>, Refusal> {
        if bytes.len() > COMMAND_MAX {
            return Err(Refusal::Oversized);
        }
        let split = || {
            let (version, rest) = bytes.split_first()?;
            let (key, rest) = rest.split_first_chunk()?;
            let (signature, payload) = rest.split_first_chunk()?;
            (*version == VERSION).then_some(Received { key: KeyId(*key), signature, payload })
        };
        split().ok_or(Refusal::Malformed)
    }

    /// What the signature is over.
    #[must_use]
    pub fn signed(&self) -> SignedBytes {
        signed(COMMAND_WORD, &self.key.0, self.payload)
    }

    /// The command, to be read when the signature is good.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] with the device and counter that could be read, [`Refusal::Malformed`].
    pub fn command(&self) -> Result<Command, (Refusal, Option<Head>)> {
        let (head, rest) =
            postcard::take_from_bytes::<Head>(self.payload).map_err(|_| (Refusal::Malformed, None))?;
        // Variants are numbered by one byte while there are fewer than 128 of them.
        if rest.first().is_some_and(|variant| *variant >= ACTIONS) {
            return Err((Refusal::Unknown, Some(head)));
        }
        match postcard::take_from_bytes::<Action>(rest) {
            Ok((action, [])) => {
                let Head { device, counter, until } = head;
                Ok(Command { device, counter, until, action })
            }
            _ => Err((Refusal::Malformed, Some(head))),
        }
    }
}

/// What stands before the action of a command: every version can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// As in [`Command`].
    pub device: String<DEVICE_MAX>,
    /// As in [`Command`].
    pub counter: u64,
    /// As in [`Command`].
    pub until: Until,
}

/// Signs and encodes a command.
///
/// # Errors
/// [`TooLarge`] when it does not fit into [`COMMAND_MAX`] bytes, which cannot happen.
pub fn sign_command(
    command: &Command,
    key: KeyId,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8, COMMAND_MAX>, TooLarge> {
    let mut buf = [0; COMMAND_MAX];
    let payload = postcard::to_slice(command, &mut buf).map_err(|_| TooLarge)?;
    let signature = sign(&signed(COMMAND_WORD, &key.0, payload));
    frame(&key.0, &signature, payload)
}

/// Signs and encodes a receipt of the device with this public key.
///
/// # Errors
/// [`TooLarge`] when it does not fit into [`RECEIPT_MAX`] bytes, which cannot happen.
pub fn sign_receipt(
    receipt: &Receipt,
    device_key: &PublicKey,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8, RECEIPT_MAX>, TooLarge> {
    let mut buf = [0; RECEIPT_MAX];
    let payload = postcard::to_slice(receipt, &mut buf).map_err(|_| TooLarge)?;
    let signature = sign(&signed(RECEIPT_WORD, device_key, payload));
    frame(device_key, &signature, payload)
}

/// A receipt as it travels, not believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReceipt<'a> {
    /// The key that is said to be the device's.
    pub device_key: &'a PublicKey,
    /// Its signature.
    pub signature: &'a Signature,
    /// What it says.
    pub receipt: Receipt,
    payload: &'a [u8],
}

impl<'a> SignedReceipt<'a> {
    /// Takes it apart.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn parse(bytes: &'a [u8]) -> Result<SignedReceipt<'a>, DecodeError> {
        let (version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        if let Some(extra) = bytes.len().checked_sub(RECEIPT_MAX + 1) {
            return Err(DecodeError::Trailing(extra + 1));
        }
        let (device_key, rest) = rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
        let (signature, payload) = rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
        match postcard::take_from_bytes::<Receipt>(payload) {
            Ok((receipt, [])) => Ok(SignedReceipt { device_key, signature, receipt, payload }),
            Ok((_, extra)) => Err(DecodeError::Trailing(extra.len())),
            Err(_) => Err(DecodeError::Malformed),
        }
    }

    /// What the signature is over.
    #[must_use]
    pub fn signed(&self) -> SignedBytes {
        signed(RECEIPT_WORD, self.device_key, self.payload)
    }
}

/// A part of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The command that asked for the document.
    pub command: CommandId,
    /// Which part, from 0 on.
    pub index: u32,
    /// How many there are.
    pub of: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct PartHead {
    command: CommandId,
    index: u32,
    of: u32,
}

impl<'a> Part<'a> {
    /// Encodes what stands before the bytes.
    ///
    /// # Errors
    /// [`TooLarge`], which cannot happen.
    pub fn head(&self) -> Result<Vec<u8, PART_HEAD_MAX>, TooLarge> {
        let mut buf = [0; PART_HEAD_MAX];
        let head = PartHead { command: self.command, index: self.index, of: self.of };
        let used = postcard::to_slice(&head, &mut buf).map_err(|_| TooLarge)?;
        let mut out = Vec::new();
        out.push(VERSION).map_err(|_| TooLarge)?;
        out.extend_from_slice(used).map_err(|_| TooLarge)?;
        Ok(out)
    }

    /// Takes one apart.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Part<'a>, DecodeError> {
        let (version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        let (head, bytes) =
            postcard::take_from_bytes::<PartHead>(rest).map_err(|_| DecodeError::Malformed)?;
        if head.index >= head.of || bytes.is_empty() || bytes.len() > PART_MAX {
            return Err(DecodeError::Malformed);
        }
        Ok(Part { command: head.command, index: head.index, of: head.of, bytes })
    }
}

fn signed(word: &[u8], signer: &[u8], payload: &[u8]) -> SignedBytes {
    let mut out = SignedBytes::new();
    for part in [word, signer, payload] {
        // It is as long as the longest message, which contains a signature instead of the word.
        let _ = out.extend_from_slice(part);
    }
    out
}

fn frame<const N: usize>(
    signer: &[u8],
    signature: &Signature,
    payload: &[u8],
) -> Result<Vec<u8, N>, TooLarge> {
    let mut out = Vec::new();
    for part in [&[VERSION][..], signer, signature, payload] {
        out.extend_from_slice(part).map_err(|_| TooLarge)?;
    }
    Ok(out)
}
