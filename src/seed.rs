//! A secret key for the hashers of maps.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// The secret key of a map's hasher, so that nobody can choose keys that collide.
///
/// On `wasm32-unknown-unknown` std's `RandomState` has no source of randomness, and its keys are
/// predictable.
#[derive(Clone)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A fresh secret. Workers have randomness only while they serve a request.
    ///
    /// # Errors
    ///
    /// If the platform has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// 64 random bits from the platform.
    ///
    /// # Errors
    ///
    /// If the platform has no randomness.
    pub fn random_bits() -> Result<u64, getrandom::Error> {
        getrandom::u64()
    }

    /// A seed of known bytes, which is no secret: for measurements that have to be reproducible.
    #[must_use]
    pub const fn known(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl BuildHasher for Seed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

#[cfg(test)]
impl Seed {
    /// The same seed for every test.
    pub(crate) const fn fixed() -> Self {
        Self::known([7; 16])
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn two_random_seeds_differ() {
        assert_ne!(Seed::random().unwrap().0, Seed::random().unwrap().0);
    }
}
