//! Public keys, and whether a signature by one of them counts.
//!
//! The OpenPGP library checks mathematics only; the policy is here:
//! - the hash is SHA-256 or stronger, in the signature and in all that binds the key;
//! - the primary key has a self-signature that was valid when the signature was made;
//! - a subkey is bound by the primary key, may sign, and has signed its primary key back;
//! - neither had expired when the signature was made, and neither is revoked. A revocation
//!   counts whenever it was made: who holds a lost key can write any date into a signature.
//!
//! Revocations made by a third key ("designated revoker") are not followed: keys come with
//! forge and are replaced with it.

use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};
use thiserror::Error;

/// The keys that archives are trusted by.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// Why a text is not a keyring.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Not armored OpenPGP, or a damaged one.
    #[error("not an armored OpenPGP public key")]
    Armor(#[source] pgp::errors::Error),
    /// Armor with nothing in it.
    #[error("no OpenPGP public key in the text")]
    Empty,
}

/// Why one signature does not count.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Not the kind of signature that a text carries.
    #[error("is not a signature of a text")]
    Kind,
    /// MD5, SHA-1, SHA-224, or unknown.
    #[error("uses a hash weaker than SHA-256")]
    WeakHash,
    /// No key of the keyring made it.
    #[error("was made by a key that is not in the keyring")]
    UnknownKey,
    /// The key is there, the signature is not of this text.
    #[error("does not fit the text")]
    Bad,
    /// No valid self-signature, or not allowed to sign.
    #[error("was made by a key that is not bound as a signing key")]
    Unbound,
    /// The primary key or the subkey has been revoked.
    #[error("was made by a revoked key")]
    Revoked,
    /// The primary key or the subkey had expired by then.
    #[error("was made after its key had expired")]
    KeyExpired,
    /// The signature has an expiry of its own, and it is over.
    #[error("has expired")]
    Expired,
    /// Made later than now.
    #[error("was made in the future")]
    Future,
}

const SHIPPED: [&str; 6] = [
    include_str!("keys/bookworm-automatic.asc"),
    include_str!("keys/bookworm-security-automatic.asc"),
    include_str!("keys/bookworm-stable.asc"),
    include_str!("keys/trixie-automatic.asc"),
    include_str!("keys/trixie-security-automatic.asc"),
    include_str!("keys/trixie-stable.asc"),
];

/// How far another clock may be ahead of ours, in seconds: a day. Less refuses
/// honest mirrors on machines with a slow clock.
pub(super) const CLOCK_SKEW: i64 = 86_400;

impl Keyring {
    /// The keys of Debian 12 and 13: archive, security archive, stable release.
    ///
    /// # Errors
    /// Never with the keys as shipped; a test reads them.
    pub fn debian() -> Result<Keyring, KeyringError> {
        let mut keyring = Keyring { keys: Vec::new() };
        for text in SHIPPED {
            keyring.keys.extend(Keyring::parse(text)?.keys);
        }
        Ok(keyring)
    }

    /// Reads one or more armored public keys.
    ///
    /// # Errors
    /// [`KeyringError`] when the text is damaged or holds no key.
    pub fn parse(armored: &str) -> Result<Keyring, KeyringError> {
        let mut keys = Vec::new();
        // The library reads one armor block; a keyring file may be several, one after the other.
        const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
        let starts: Vec<usize> = armored.match_indices(BEGIN).map(|(at, _)| at).collect();
        for (number, &start) in starts.iter().enumerate() {
            let end = starts.get(number + 1).copied().unwrap_or(armored.len());
            let block = &armored.as_bytes()[start..end];
            let (found, _) =
                SignedPublicKey::from_armor_many(block).map_err(KeyringError::Armor)?;
            for key in found {
                keys.push(key.map_err(KeyringError::Armor)?);
            }
        }
        if keys.is_empty() { Err(KeyringError::Empty) } else { Ok(Keyring { keys }) }
    }

    /// The fingerprints of the primary keys, upper-case hexadecimal, in order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| fingerprint(&key.primary_key)).collect()
    }

    /// Checks one signature over `text` and returns the fingerprint of the
    /// primary key behind it.
    ///
    /// # Errors
    /// The [`Refusal`] of the key that comes closest.
    pub(super) fn check(
        &self,
        signature: &Signature,
        text: &[u8],
        now: i64,
    ) -> Result<String, Refusal> {
        if signature.typ() != Some(SignatureType::Text) {
            return Err(Refusal::Kind);
        }
        let made = made_at(signature).ok_or(Refusal::Kind)?;
        if !is_strong(signature) {
            return Err(Refusal::WeakHash);
        }
        if made > now + CLOCK_SKEW {
            return Err(Refusal::Future);
        }
        let lifetime =
            signature.signature_expiration_time().map_or(0, |time| i64::from(time.as_secs()));
        if lifetime != 0 && made + lifetime < now {
            return Err(Refusal::Expired);
        }
        let mut refusal = Refusal::UnknownKey;
        for key in &self.keys {
            if names(signature, &key.primary_key) {
                refusal = match signature.verify(&key.primary_key, text) {
                    Err(_) => Refusal::Bad,
                    Ok(()) => match primary_at(key, made, Use::Sign) {
                        Err(refusal) => refusal,
                        Ok(()) => return Ok(fingerprint(&key.primary_key)),
                    },
                };
            }
            for subkey in key.public_subkeys.iter().filter(|subkey| names(signature, &subkey.key)) {
                refusal = match signature.verify(&subkey.key, text) {
                    Err(_) => Refusal::Bad,
                    Ok(()) => match primary_at(key, made, Use::Bind)
                        .and_then(|()| subkey_at(key, subkey, made))
                    {
                        Err(refusal) => refusal,
                        Ok(()) => return Ok(fingerprint(&key.primary_key)),
                    },
                };
            }
        }
        Err(refusal)
    }
}

/// What the primary key is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Sign,
    Bind,
}

fn fingerprint(key: &impl KeyDetails) -> String {
    key.fingerprint().to_string().to_uppercase()
}

fn made_at(signature: &Signature) -> Option<i64> {
    signature.created().map(|time| i64::from(time.as_secs()))
}

fn is_strong(signature: &Signature) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    matches!(signature.hash_alg(), Some(Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512))
}

/// Whether the signature says that `key` made it; one that says nothing is not taken.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().iter().any(|&name| *name == key.fingerprint())
        || signature.issuer_key_id().iter().any(|&name| *name == key.legacy_key_id())
}

/// Whether the primary key was good for `purpose` at `time`.
fn primary_at(key: &SignedPublicKey, time: i64, purpose: Use) -> Result<(), Refusal> {
    let primary = &key.primary_key;
    if key.details.revocation_signatures.iter().any(|found| found.verify_key(primary).is_ok()) {
        return Err(Refusal::Revoked);
    }
    let direct = key.details.direct_signatures.iter().filter(|found| {
        found.typ() == Some(SignatureType::Key) && found.verify_key(primary).is_ok()
    });
    let mut bindings: Vec<&Signature> = direct.filter(|found| counts_at(found, time)).collect();
    for user in &key.details.users {
        let (revocations, certifications): (Vec<&Signature>, Vec<&Signature>) = user
            .signatures
            .iter()
            .filter(|found| found.verify_certification(primary, Tag::UserId, &user.id).is_ok())
            .partition(|found| found.typ() == Some(SignatureType::CertRevocation));
        if revocations.is_empty() {
            bindings.extend(certifications.into_iter().filter(|found| counts_at(found, time)));
        }
    }
    // A direct signature may carry only a list of revokers; flags and expiry
    // are then in the newest signature that has them.
    bindings.sort_by_key(|found| made_at(found));
    if bindings.is_empty() {
        return Err(Refusal::Unbound);
    }
    let expiry = bindings.iter().rev().find_map(|found| found.key_expiration_time());
    not_expired(primary, expiry.map(|time| time.as_secs()), time)?;
    let flags = bindings.iter().rev().map(|found| found.key_flags());
    let may_sign = flags
        .into_iter()
        .find(|flags| *flags != KeyFlags::default())
        .is_some_and(|flags| flags.sign());
    if purpose == Use::Sign && !may_sign {
        return Err(Refusal::Unbound);
    }
    Ok(())
}

/// Whether the subkey was bound as a signing key at `time`.
fn subkey_at(key: &SignedPublicKey, subkey: &SignedPublicSubKey, time: i64) -> Result<(), Refusal> {
    let mut newest: Option<&Signature> = None;
    for found in &subkey.signatures {
        if found.verify_subkey_binding(&key.primary_key, &subkey.key).is_err() {
            continue;
        }
        if found.typ() == Some(SignatureType::SubkeyRevocation) {
            return Err(Refusal::Revoked);
        }
        if counts_at(found, time) && newest.is_none_or(|newest| made_at(newest) < made_at(found)) {
            newest = Some(found);
        }
    }
    let binding = newest.ok_or(Refusal::Unbound)?;
    let signed_back = binding.embedded_signature().is_some_and(|back| {
        is_strong(back) && back.verify_primary_key_binding(&subkey.key, &key.primary_key).is_ok()
    });
    if !binding.key_flags().sign() || !signed_back {
        return Err(Refusal::Unbound);
    }
    not_expired(&subkey.key, binding.key_expiration_time().map(|time| time.as_secs()), time)
}

/// Whether a self-signature may be relied on for something made at `time`.
fn counts_at(signature: &Signature, time: i64) -> bool {
    let lifetime =
        signature.signature_expiration_time().map_or(0, |time| i64::from(time.as_secs()));
    is_strong(signature)
        && made_at(signature)
            .is_some_and(|made| made <= time && (lifetime == 0 || time < made + lifetime))
}

/// `expiry` counts seconds from the making of the key; 0 and nothing mean never.
fn not_expired(key: &impl KeyDetails, expiry: Option<u32>, time: i64) -> Result<(), Refusal> {
    let made = i64::from(key.created_at().as_secs());
    match expiry {
        _ if time < made => Err(Refusal::Unbound),
        Some(seconds) if seconds != 0 && time >= made + i64::from(seconds) => {
            Err(Refusal::KeyExpired)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fingerprints as Debian's archive team publishes them.
    #[test]
    fn shipped_keys() {
        assert_eq!(
            Keyring::debian().unwrap().fingerprints(),
            [
                "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
                "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
                "4D64FEC119C2029067D6E791F8D2585B8783D481",
                "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
                "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
                "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
            ]
        );
    }

    #[test]
    fn not_a_keyring() {
        for text in [
            "",
            "hello",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n",
        ] {
            assert!(Keyring::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn several_blocks_in_one_text() {
        let text = format!("{}\n{}", SHIPPED[2], SHIPPED[5]);
        assert_eq!(Keyring::parse(&text).unwrap().fingerprints().len(), 2);
    }
}
