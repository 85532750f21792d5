//! A secret for the hashers of maps.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// A secret for the map's hasher, so that nobody can choose keys that collide.
///
/// `wasm32-unknown-unknown` has no source of its own behind std's `RandomState`, whose keys are
/// predictable there.
#[derive(Clone)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A fresh secret. Workers have randomness only while a request is being served.
    ///
    /// # Errors
    ///
    /// When the platform has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// 64 random bits, from the same source.
    ///
    /// # Errors
    ///
    /// When the platform has none to give.
    pub fn random_bits() -> Result<u64, getrandom::Error> {
        getrandom::u64()
    }

    /// These bytes, for a measurement that is to be the same every time. They are no secret.
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
    /// Any seed, for tests.
    pub(crate) const fn fixed() -> Self {
        Self::known([7; 16])
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn a_seed_is_random() {
        assert_ne!(Seed::random().unwrap().0, Seed::random().unwrap().0);
    }
}
