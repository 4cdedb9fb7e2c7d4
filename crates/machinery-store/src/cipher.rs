//! Encryption at rest: rows of some resources are sealed before they reach the disk.
//!
//! The store asks a [`RowCipher`] which resources to seal and hands it what is to be sealed, with what must not be changed
//! or swapped as associated data: the row's header (resource, namespace, name, times) and its revision.
//!
//! [`EnvelopeCipher`] is the one to use. A store has a data key of its own, which seals its rows; it is kept in the store's
//! bookkeeping, wrapped by a key-encryption key that is not kept in the store. So the outer key can be changed without a row being
//! written again, and the files of the store alone reveal nothing.
//!
//! ```text
//! sealed row:  version u8 (1) | data key id [4] | nonce [12] | ChaCha20-Poly1305 of the payload, tag [16]
//! wrapped key: version u8 (1) | outer key id [8] | nonce [12] | ChaCha20-Poly1305 of the data key [32], tag [16]
//! ```
//!
//! Nonces are random: with 96 bits two are the same after some 2^32 rows with a chance of one in 2^33. ChaCha20 and not
//! AES, because gateways without AES instructions would leak the key by timing, or be slow.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

/// Length of keys: of the data key and of those that wrap it.
pub const KEY_LEN: usize = 32;

const VERSION: u8 = 1;
const DATA_KEY_ID_LEN: usize = 4;
const OUTER_KEY_ID_LEN: usize = 8;
const WRAPPED_KEY_CONTEXT: &[u8] = b"selvedge-store data key";

/// Why something could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// It was sealed with a key that is not among those given.
    #[error("it is sealed with another key than those given")]
    OtherKey,
    /// It was changed or moved, or the key is not the one that its id says.
    #[error("it does not open: it was changed, moved, or the key is another")]
    NotAuthentic,
    /// It is no output of this cipher, or that of a later version.
    #[error("its form is not known; a newer program may have written it")]
    UnknownForm,
    /// The system gave no random numbers.
    #[error("failed to get random numbers from the system")]
    Random,
    /// The cipher is in use by another store, which has a data key of its own.
    #[error("the cipher is in use by another store")]
    InUse,
    /// No store has unlocked the cipher yet.
    #[error("the cipher has no data key yet")]
    Locked,
}

/// Seals and opens the rows of a store.
pub trait RowCipher: fmt::Debug + Send + Sync {
    /// Called when a store opens, with what it keeps for the cipher; returns what it should keep from now on, which it does
    /// before the first row is sealed.
    ///
    /// # Errors
    /// The store does not open.
    fn unlock(&self, kept: Option<&[u8]>) -> Result<Vec<u8>, CipherError>;

    /// Whether rows of this resource are sealed.
    fn seals(&self, resource: &str) -> bool;

    /// Seals `plaintext`; `associated` must be the same when it is opened.
    ///
    /// # Errors
    /// The write is rejected.
    fn seal(&self, resource: &str, associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CipherError>;

    /// Opens what [`seal`](Self::seal) returned.
    ///
    /// # Errors
    /// It was changed, moved, or sealed with another key.
    fn open(&self, resource: &str, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError>;
}

/// A data key per store, wrapped by a key that is kept outside of it. One value serves one store.
pub struct EnvelopeCipher {
    outer: OuterKey,
    /// Keys that may have wrapped the data key before.
    previous: Vec<OuterKey>,
    resources: Vec<Box<str>>,
    random: SystemRandom,
    data: Mutex<Option<DataKey>>,
}

struct OuterKey {
    id: [u8; OUTER_KEY_ID_LEN],
    key: LessSafeKey,
}

#[derive(Clone)]
struct DataKey {
    id: [u8; DATA_KEY_ID_LEN],
    bytes: [u8; KEY_LEN],
    key: LessSafeKey,
}

impl EnvelopeCipher {
    /// Seals the rows of these resources (`/secrets`); `key` wraps the store's data key.
    pub fn new(key: &[u8; KEY_LEN], resources: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self {
            outer: OuterKey::new(key),
            previous: Vec::new(),
            resources: resources.into_iter().map(Into::into).collect(),
            random: SystemRandom::new(),
            data: Mutex::default(),
        }
    }

    /// Also takes a data key that this older key has wrapped. It is wrapped with the present one when the store opens.
    #[must_use]
    pub fn and_previous(mut self, key: &[u8; KEY_LEN]) -> Self {
        self.previous.push(OuterKey::new(key));
        self
    }

    fn wrap(&self, data: &DataKey) -> Result<Vec<u8>, CipherError> {
        let mut wrapped = vec![VERSION];
        wrapped.extend_from_slice(&self.outer.id);
        seal_into(&self.outer.key, &self.random, WRAPPED_KEY_CONTEXT, &data.bytes, &mut wrapped)?;
        Ok(wrapped)
    }

    fn unwrap_key(&self, wrapped: &[u8]) -> Result<DataKey, CipherError> {
        let (id, sealed) = versioned::<OUTER_KEY_ID_LEN>(wrapped)?;
        let outer = [&self.outer].into_iter().chain(&self.previous).find(|outer| outer.id == id);
        let outer = outer.ok_or(CipherError::OtherKey)?;
        let bytes = open_sealed(&outer.key, WRAPPED_KEY_CONTEXT, sealed)?;
        Ok(DataKey::new(bytes.try_into().map_err(|_| CipherError::UnknownForm)?))
    }

    fn data(&self) -> Result<DataKey, CipherError> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(CipherError::Locked)
    }
}

impl RowCipher for EnvelopeCipher {
    fn unlock(&self, kept: Option<&[u8]>) -> Result<Vec<u8>, CipherError> {
        let mut held = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let data = match kept {
            Some(kept) => self.unwrap_key(kept)?,
            None => {
                let mut bytes = [0; KEY_LEN];
                self.random.fill(&mut bytes).map_err(|_| CipherError::Random)?;
                DataKey::new(bytes)
            }
        };
        // The same store may be opened again with the same cipher.
        if held.as_ref().is_some_and(|held| held.bytes != data.bytes) {
            return Err(CipherError::InUse);
        }
        let wrapped = match kept {
            Some(kept) if kept.get(1..=OUTER_KEY_ID_LEN) == Some(&self.outer.id) => kept.to_vec(),
            _ => self.wrap(&data)?,
        };
        *held = Some(data);
        Ok(wrapped)
    }

    fn seals(&self, resource: &str) -> bool {
        self.resources.iter().any(|sealed| **sealed == *resource)
    }

    fn seal(&self, _: &str, associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CipherError> {
        let data = self.data()?;
        let overhead = 1 + DATA_KEY_ID_LEN + NONCE_LEN + CHACHA20_POLY1305.tag_len();
        let mut sealed = Vec::with_capacity(plaintext.len() + overhead);
        sealed.push(VERSION);
        sealed.extend_from_slice(&data.id);
        seal_into(&data.key, &self.random, associated, plaintext, &mut sealed)?;
        Ok(sealed)
    }

    fn open(&self, _: &str, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        let data = self.data()?;
        let (id, sealed) = versioned::<DATA_KEY_ID_LEN>(sealed)?;
        if id != data.id {
            return Err(CipherError::OtherKey);
        }
        open_sealed(&data.key, associated, sealed)
    }
}

impl fmt::Debug for EnvelopeCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No key material, and no derived form of it.
        f.debug_struct("EnvelopeCipher").field("resources", &self.resources).finish_non_exhaustive()
    }
}

impl OuterKey {
    fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self { id: id_of(bytes), key: key(bytes) }
    }
}

impl DataKey {
    fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self { id: id_of(&bytes), bytes, key: key(&bytes) }
    }
}

/// The first bytes of a key's hash: enough to distinguish the keys of a store, of no use to find the key.
fn id_of<const N: usize>(key: &[u8; KEY_LEN]) -> [u8; N] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"selvedge-store key id");
    context.update(key);
    let mut id = [0; N];
    id.copy_from_slice(&context.finish().as_ref()[..N]);
    id
}

fn key(bytes: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the key has the algorithm's length"))
}

fn versioned<const ID_LEN: usize>(bytes: &[u8]) -> Result<([u8; ID_LEN], &[u8]), CipherError> {
    let (&version, rest) = bytes.split_first().ok_or(CipherError::UnknownForm)?;
    let (id, sealed) = rest.split_first_chunk().ok_or(CipherError::UnknownForm)?;
    if version == VERSION { Ok((*id, sealed)) } else { Err(CipherError::UnknownForm) }
}

fn seal_into(
    key: &LessSafeKey,
    random: &SystemRandom,
    associated: &[u8],
    plaintext: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CipherError> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).map_err(|_| CipherError::Random)?;
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plaintext);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(associated), &mut out[start..])
        .expect("an object is far smaller than what the algorithm can seal");
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

fn open_sealed(key: &LessSafeKey, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CipherError::UnknownForm)?;
    let mut opened = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let len =
        key.open_in_place(nonce, Aad::from(associated), &mut opened).map_err(|_| CipherError::NotAuthentic)?.len();
    opened.truncate(len);
    Ok(opened)
}

#[cfg(test)]
mod tests;
