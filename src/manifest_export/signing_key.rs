//! Signs an export of manifests with the operator's Ed25519 key, so that its origin can be checked
//! with OpenSSL alone.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::Ed25519KeyPair;

use super::{SIGNATURE_SUFFIX, sibling};
use crate::error::UserError;
use crate::export::Target;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// The operator's key.
pub(crate) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads a key in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    pub(crate) fn read(path: &Path) -> anyhow::Result<SigningKey> {
        let failed = |why: &str| {
            let message = format!("failed to read the signing key {}: {why}", path.display());
            UserError::usage(message)
                .with_hint("create one with `openssl genpkey -algorithm ed25519 -out KEY`, readable for this user only")
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
        let key = parse_pem(&text).ok_or_else(|| failed("it is not a private Ed25519 key in PEM"))?;
        Ok(SigningKey(key))
    }

    /// Writes the signature of the file's bytes to `FILE.sig`; returns its path.
    pub(crate) fn sign_file(&self, file: &Path) -> anyhow::Result<PathBuf> {
        let bytes = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let path = sibling(file, SIGNATURE_SUFFIX);
        let mut target = Target::precompressed_file(&path)?;
        target.write_all(self.0.sign(&bytes).as_ref())?;
        target.finish()?;
        Ok(path)
    }
}

fn parse_pem(text: &str) -> Option<Ed25519KeyPair> {
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
    // OpenSSL writes no public key beside the private one.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;

    /// The key of RFC 8032, test 1, as OpenSSL writes it.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

    #[test]
    fn the_signature_of_a_file_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (key, file) = (folder.path().join("key.pem"), folder.path().join("manifests.jsonl"));
        std::fs::write(&key, PEM).unwrap();
        std::fs::write(&file, "a line\n").unwrap();
        let key = SigningKey::read(&key).unwrap();
        let public = crate::proof::hex(key.0.public_key().as_ref());
        assert_eq!(public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signature = std::fs::read(key.sign_file(&file).unwrap()).unwrap();
        UnparsedPublicKey::new(&ED25519, key.0.public_key().as_ref()).verify(b"a line\n", &signature).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        for text in
            ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----"]
        {
            std::fs::write(&path, text).unwrap();
            let error = SigningKey::read(&path).err().unwrap();
            assert!(error.to_string().contains("is not a private Ed25519 key"), "{error}");
        }
    }
}
