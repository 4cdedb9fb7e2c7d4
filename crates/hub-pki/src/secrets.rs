//! The key that seals Secrets at rest.

use std::fs;
use std::io;
use std::path::Path;

use crate::authorities::OpenPkiError;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The key in a file (0600); made at the first start. Whoever takes the store along without it has no Secrets.
///
/// # Errors
/// When the file cannot be read or written, or is no key.
pub fn secrets_key(path: &Path) -> Result<[u8; KEY_BYTES], OpenPkiError> {
    let failed = |act, hint, source| OpenPkiError::File { act, path: path.to_owned(), hint, source };
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            let source = io::Error::new(io::ErrorKind::InvalidData, "a key has 32 bytes");
            failed("read", "; restore it from a backup", source)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = base_pki::random_bytes()
                .map_err(|source| OpenPkiError::Make { what: "the key of Secrets".to_owned(), source })?;
            base_pki::write_private(path, &key)?;
            Ok(key)
        }
        Err(source) => Err(failed("read", "", source)),
    }
}
