//! The key that seals Secrets at rest, and the one that signs tokens of service accounts.

use std::fs;
use std::io;
use std::path::Path;

use machinery_access::TokenKey;

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

/// The key in a file (0600) by which tokens of service accounts are signed; made at the first start. When it is lost, every
/// token is worthless and has to be requested anew.
///
/// # Errors
/// When the file cannot be read or written, or is no key.
pub fn token_key(path: &Path) -> Result<TokenKey, OpenPkiError> {
    let failed = |act, hint, source| OpenPkiError::File { act, path: path.to_owned(), hint, source };
    match fs::read(path) {
        Ok(bytes) => TokenKey::from_pkcs8(&bytes).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            failed("read", "; restore it from a backup, or delete it and let tokens be requested anew", source)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = TokenKey::generate().map_err(|error| failed("create", "", io::Error::other(error)))?;
            base_pki::write_private(path, key.pkcs8())?;
            Ok(key)
        }
        Err(source) => Err(failed("read", "", source)),
    }
}

/// Whether these bytes are a key by which tokens are signed, without a file of them.
///
/// # Errors
/// What is wrong with them.
pub fn check_token_key(bytes: &[u8]) -> Result<(), String> {
    TokenKey::from_pkcs8(bytes).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_tokens_is_the_same_after_a_restart_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.key");
        let first = token_key(&path).unwrap();
        assert_eq!(token_key(&path).unwrap().id(), first.id());
        fs::write(&path, b"nonsense").unwrap();
        let error = token_key(&path).unwrap_err();
        assert!(error.to_string().contains("tokens.key"), "{error}");
    }
}
