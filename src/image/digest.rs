//! Digests: the only form in which a name of content from outside becomes a path or a key.
//!
//! Registries, archives, configurations, annotations and API clients give text. It is parsed here once, where it comes in;
//! [`Digest`], [`DiffId`] and [`ChainId`] cannot hold `..`, `/` or anything else that is not an algorithm and its hex digits.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;
use std::fmt;
use std::io;
use std::str::FromStr;

/// The registered algorithms of the OCI image specification, "Digests".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// Its name in a digest, and of its directory in an OCI layout.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    const fn hex_length(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// `ALGORITHM:HEX`, the hex digits in lower case and as many as the algorithm has.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

/// A text that is no digest.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a digest: {why}")]
pub struct BadDigest {
    /// Its beginning, as [`shown`].
    text: String,
    why: &'static str,
}

impl BadDigest {
    fn new(text: &str, why: &'static str) -> Self {
        BadDigest { text: shown(text), why }
    }
}

/// Characters of a stranger's text in an error.
pub const SHOWN: usize = 300;

/// A stranger's text as an error shows it: its beginning, without what a terminal would obey.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let parsed = Algorithm::ALL.into_iter().find_map(|algorithm| {
            let hex = text.strip_prefix(algorithm.name())?.strip_prefix(':')?;
            Some((algorithm, hex))
        });
        let Some((algorithm, hex)) = parsed else {
            return Err(BadDigest::new(text, "it does not begin with `sha256:` or `sha512:`"));
        };
        if hex.len() != algorithm.hex_length() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadDigest::new(text, "sha256 has 64 and sha512 has 128 hexadecimal digits in lower case"));
        }
        Ok(Digest(text.into()))
    }
}

impl Digest {
    /// The SHA-256 of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether bytes have this digest.
    pub fn matches(&self, bytes: &[u8]) -> Result<(), Digest> {
        let mut hasher = Hasher::new(self.algorithm());
        hasher.update(bytes);
        let got = hasher.finish();
        if got == *self { Ok(()) } else { Err(got) }
    }

    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with(Algorithm::Sha512.name()) { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }

    /// The digits alone: a name of a file.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().name().len() + 1..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The beginning of the digits, as people are shown it.
    pub fn short(&self) -> String {
        self.hex()[..12].to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of a layer's uncompressed tar: what `rootfs.diff_ids` of a configuration lists. SHA-256, as every tool writes it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiffId(Digest);

/// A layer together with all below it; it names the layer's directory.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(Digest);

/// Implementations of a newtype of a SHA-256 digest.
macro_rules! sha256_only {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = BadDigest;

            fn from_str(text: &str) -> Result<Self, BadDigest> {
                text.parse::<Digest>()?.try_into()
            }
        }

        impl TryFrom<Digest> for $name {
            type Error = BadDigest;

            fn try_from(digest: Digest) -> Result<Self, BadDigest> {
                match digest.algorithm() {
                    Algorithm::Sha256 => Ok($name(digest)),
                    Algorithm::Sha512 => Err(BadDigest::new(digest.as_str(), "layers are named by their SHA-256")),
                }
            }
        }

        impl $name {
            pub fn digest(&self) -> &Digest {
                &self.0
            }

            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            pub fn hex(&self) -> &str {
                self.0.hex()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

sha256_only!(DiffId);
sha256_only!(ChainId);

impl ChainId {
    /// OCI image specification, "Layer ChainID": a layer on top of others.
    pub fn on(parent: Option<&ChainId>, diff_id: &DiffId) -> Self {
        ChainId(match parent {
            None => diff_id.0.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        })
    }

    /// The chain ids of layers, the lowest first.
    pub fn all(diff_ids: &[DiffId]) -> Vec<Self> {
        let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            chain.push(ChainId::on(chain.last(), diff_id));
        }
        chain
    }
}

/// Text in JSON that is parsed when it is read.
macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Digest);
as_text!(DiffId);
as_text!(ChainId);

/// Makes a digest of bytes that come in pieces.
#[derive(Clone)]
pub enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        let (algorithm, hash) = match self {
            Hasher::Sha256(hash) => (Algorithm::Sha256, hash.finalize().to_vec()),
            Hasher::Sha512(hash) => (Algorithm::Sha512, hash.finalize().to_vec()),
        };
        Digest(format!("{}:{}", algorithm.name(), HEXLOWER.encode(&hash)).into())
    }
}

/// Makes a digest of what is read, or written, through it.
pub struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    /// Bytes so far.
    length: u64,
}

impl<T> Hashing<T> {
    pub fn new(inner: T, algorithm: Algorithm) -> Self {
        Hashing { inner, hasher: Hasher::new(algorithm), length: 0 }
    }

    /// As [`Hashing::new`], with the algorithm of diff ids.
    pub fn sha256(inner: T) -> Self {
        Self::new(inner, Algorithm::Sha256)
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn finish(self) -> (T, Digest) {
        (self.inner, self.hasher.finish())
    }
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.length += n as u64;
        Ok(n)
    }
}

impl<W: io::Write> io::Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_digest_is_one() {
        let good = format!("sha256:{}", "0a".repeat(32));
        let long = format!("sha512:{}", "0a".repeat(64));
        assert_eq!(good.parse::<Digest>().unwrap().hex(), "0a".repeat(32));
        assert_eq!(long.parse::<Digest>().unwrap().hex(), "0a".repeat(64));
        let wrong = [
            String::new(),
            "sha256:".into(),
            "../../etc".into(),
            "/etc/shadow".into(),
            "sha256:../../etc".into(),
            format!("sha256:{}", "0A".repeat(32)),
            format!("sha256:{}", "0a".repeat(31)),
            format!("sha256:{}", "0a".repeat(64)),
            format!("sha512:{}", "0a".repeat(32)),
            format!("sha256:sha256:{}", "0a".repeat(32)),
            format!("sha256:{}/", "0a".repeat(32)),
            format!(" {good}"),
            format!("{good}\n"),
            format!("sha256:{}\0", "0a".repeat(31)),
            format!("md5:{}", "0a".repeat(16)),
            "0a".repeat(32),
            "é".repeat(64),
        ];
        for text in wrong {
            assert!(text.parse::<Digest>().is_err(), "{text}");
            assert!(serde_json::from_str::<ChainId>(&serde_json::json!(text).to_string()).is_err(), "{text}");
        }
        assert!(long.parse::<DiffId>().is_err() && good.parse::<DiffId>().is_ok());
        assert!(serde_json::from_str::<Digest>("7").is_err());
        let said = "\u{1b}]0;title\u{7}".parse::<Digest>().unwrap_err().to_string();
        assert!(said.contains("]0;title") && !said.contains(char::is_control), "{said:?}");
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(serde_json::to_string(&Digest::of(b"")).unwrap(), format!("\"{empty}\""));
        let long: Digest = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
            .parse()
            .unwrap();
        assert_eq!(long.matches(b"abc"), Ok(()));
        assert!(long.matches(b"abd").is_err());
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let (a, b): (DiffId, DiffId) = (Digest::of(b"a").try_into().unwrap(), Digest::of(b"b").try_into().unwrap());
        let chain = ChainId::all(&[a.clone(), b.clone()]);
        assert_eq!(chain[0].as_str(), a.as_str());
        assert_eq!(*chain[1].digest(), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
