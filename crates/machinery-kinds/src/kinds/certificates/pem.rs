//! What is in a request, and in a certificate, as far as the API asks: PEM, the outermost shape, and who signed the request.

use base64::{Engine, engine::general_purpose::STANDARD};
use x509_parser::{
    certification_request::X509CertificationRequest, error::X509Error, parse_x509_certificate, prelude::FromDer,
};

/// A block of PEM: what it says it is, whether it has headers, and what it holds.
pub(super) struct Block {
    pub kind: String,
    pub has_headers: bool,
    pub bytes: Vec<u8>,
}

/// The first block of a text, and what comes behind it. What cannot be read is passed over, as Go does.
pub(super) fn block(text: &str) -> Option<(Block, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    let mut rest = text;
    loop {
        let begin = if rest.starts_with(BEGIN) { 0 } else { rest.find("\n-----BEGIN ")? + 1 };
        rest = &rest[begin + BEGIN.len()..];
        let (first, body) = rest.split_once('\n')?;
        let Some(kind) = first.trim_end().strip_suffix("-----") else { continue };
        let end = format!("-----END {kind}-----");
        let Some((inside, after)) = body.split_once(&end) else { continue };
        let mut has_headers = false;
        let mut base64 = String::with_capacity(inside.len());
        for line in inside.lines() {
            if line.contains(':') {
                has_headers = true;
            } else {
                base64.extend(line.chars().filter(|character| !character.is_ascii_whitespace()));
            }
        }
        if let Ok(bytes) = STANDARD.decode(&base64) {
            return Some((Block { kind: kind.to_owned(), has_headers, bytes }, after));
        }
    }
}

/// The request in a text, as bytes.
///
/// # Errors
/// What Go says of a text that holds none.
pub(super) fn request_bytes(text: &str) -> Result<Vec<u8>, String> {
    let Some((block, _)) = block(text).filter(|(block, _)| block.kind == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    match sequence_problem(&block.bytes, "certificateRequest") {
        Some(problem) => Err(problem),
        None if X509CertificationRequest::from_der(&block.bytes).is_err() => {
            Err("asn1: structure error: the certification request is malformed".to_owned())
        }
        None => Ok(block.bytes),
    }
}

/// What is wrong with a request.
pub(super) fn request_problem(text: &str) -> Option<String> {
    let bytes = match request_bytes(text) {
        Ok(bytes) => bytes,
        Err(problem) => return Some(problem),
    };
    let (_, request) = X509CertificationRequest::from_der(&bytes).expect("it was read above");
    match request.verify_signature() {
        Err(X509Error::SignatureVerificationError) => {
            let algorithm = request.certification_request_info.subject_pki.algorithm.algorithm.to_id_string();
            Some(
                match algorithm.as_str() {
                    "1.2.840.10045.2.1" => "x509: ECDSA verification failure",
                    "1.3.101.112" => "x509: Ed25519 verification failure",
                    _ => "crypto/rsa: verification error",
                }
                .to_owned(),
            )
        }
        // A key of a kind that cannot be checked here is for its signer to judge.
        _ => None,
    }
}

/// What is wrong with an issued certificate: a text of one or more blocks, or nothing.
pub(super) fn certificate_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut blocks = 0;
    while let Some((block, after)) = block(rest) {
        if block.kind != "CERTIFICATE" {
            let kind = machinery_schema::field_error::quoted(&block.kind);
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {kind}"));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        blocks += 1;
        if block.bytes.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        if parse_x509_certificate(&block.bytes).is_err() {
            return Some("x509: malformed certificate".to_owned());
        }
        rest = after;
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

/// What Go says of bytes that are not one sequence, by the outermost header.
fn sequence_problem(bytes: &[u8], name: &str) -> Option<String> {
    let truncated = || Some("asn1: syntax error: truncated tag or length".to_owned());
    let [tag, first, ..] = bytes else {
        return if bytes.is_empty() { Some("asn1: syntax error: sequence truncated".to_owned()) } else { truncated() };
    };
    let (header, length) = match *first {
        length @ 0..=0x7f => (2, usize::from(length)),
        0x80 => return Some("asn1: syntax error: indefinite length found (not DER)".to_owned()),
        long => {
            let count = usize::from(long & 0x7f);
            let Some(octets) = bytes.get(2..2 + count).filter(|_| count <= 4) else { return truncated() };
            (2 + count, octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)))
        }
    };
    if *tag != 0x30 {
        return Some(format!(
            "asn1: structure error: tags don't match (16 vs {{class:{} tag:{} length:{length} isCompound:{}}}) {{optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> stringType:0 timeType:0 set:false omitEmpty:false}} {name} @{header}",
            tag >> 6,
            tag & 0x1f,
            tag & 0x20 != 0,
        ));
    }
    match bytes.len().checked_sub(header + length) {
        None => Some("asn1: syntax error: data truncated".to_owned()),
        Some(0) => None,
        Some(_) => Some("asn1: syntax error: trailing data".to_owned()),
    }
}
