//! Short names for long things.

/// FNV-1a in letters and digits that spell nothing, as Kubernetes writes its suffixes.
pub(crate) fn short_hash(bytes: &[u8], len: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let letters = ALPHABET.len() as u64;
    let mut letter = || {
        let letter = ALPHABET[usize::try_from(hash % letters).unwrap_or_default()];
        hash /= letters;
        char::from(letter)
    };
    (0..len).map(|_| letter()).collect()
}
