//! What is sealed opens for the same key, the same place and nothing else.

use super::*;

fn unlocked(key: u8) -> (EnvelopeCipher, Vec<u8>) {
    let cipher = EnvelopeCipher::new(&[key; KEY_LEN], ["/secrets"]);
    let kept = cipher.unlock(None).unwrap();
    (cipher, kept)
}

#[test]
fn what_is_sealed_opens_at_its_place_only() {
    let (cipher, _) = unlocked(1);
    assert!(cipher.seals("/secrets") && !cipher.seals("/pods"));
    let sealed = cipher.seal("/secrets", b"here 7", b"password").unwrap();
    assert!(!sealed.windows(8).any(|window| window == b"password"));
    assert_eq!(cipher.open("/secrets", b"here 7", &sealed).unwrap(), b"password");
    assert_eq!(cipher.open("/secrets", b"there 7", &sealed), Err(CipherError::NotAuthentic));
    assert_ne!(sealed, cipher.seal("/secrets", b"here 7", b"password").unwrap(), "each has a nonce of its own");
}

#[test]
fn no_byte_of_what_is_sealed_can_be_changed() {
    let (cipher, _) = unlocked(1);
    let sealed = cipher.seal("/secrets", b"", b"password").unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(cipher.open("/secrets", b"", &changed).is_err(), "byte {at}");
        assert!(cipher.open("/secrets", b"", &sealed[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn a_data_key_opens_with_the_key_that_wrapped_it_or_one_that_is_named_as_previous() {
    let (cipher, kept) = unlocked(1);
    let sealed = cipher.seal("/secrets", b"", b"password").unwrap();
    let other = EnvelopeCipher::new(&[2; KEY_LEN], ["/secrets"]);
    assert_eq!(other.unlock(Some(&kept)), Err(CipherError::OtherKey));
    assert_eq!(other.seal("/secrets", b"", b"x"), Err(CipherError::Locked));

    let rotated = EnvelopeCipher::new(&[2; KEY_LEN], ["/secrets"]).and_previous(&[1; KEY_LEN]);
    let rewrapped = rotated.unlock(Some(&kept)).unwrap();
    assert_ne!(rewrapped, kept);
    assert_eq!(rotated.open("/secrets", b"", &sealed).unwrap(), b"password");
    assert_eq!(other.unlock(Some(&rewrapped)).unwrap(), rewrapped, "the older key is not needed any more");
    assert_eq!(other.open("/secrets", b"", &sealed).unwrap(), b"password");
    for at in 0..kept.len() {
        let mut changed = kept.clone();
        changed[at] ^= 1;
        assert!(EnvelopeCipher::new(&[1; KEY_LEN], ["/secrets"]).unlock(Some(&changed)).is_err(), "byte {at}");
    }
}

#[test]
fn a_cipher_serves_one_store() {
    let (cipher, kept) = unlocked(1);
    assert_eq!(cipher.unlock(Some(&kept)).unwrap(), kept, "the same store may be opened again");
    assert_eq!(cipher.unlock(None), Err(CipherError::InUse));
    assert!(!format!("{cipher:?}").contains("key:"), "{cipher:?}");
}
