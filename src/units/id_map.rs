//! `bind.idmap` of a Compose file, `bind-idmap` of `--mount`: whose the source's files are in the container.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// How a bind mount maps owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMap {
    /// The owner of the source is the container's user there, or this one (`user[:group]`), and the reverse.
    MatchUser(Option<String>),
    /// As the container's user namespace maps them.
    Userns,
}

const MATCH_USER: &str = "match-user";
const USERNS: &str = "userns";

impl IdMap {
    /// As Docker's API has it: how, and the user.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            IdMap::MatchUser(user) => (MATCH_USER, user.as_deref().unwrap_or_default()),
            IdMap::Userns => (USERNS, ""),
        }
    }

    /// The reverse of [`Self::parts`].
    ///
    /// # Errors
    /// A sentence.
    pub fn of_parts(source: &str, user: &str) -> Result<Self, String> {
        match (source, user) {
            (MATCH_USER, "") => Ok(IdMap::MatchUser(None)),
            (MATCH_USER, user) if is_user(user) => Ok(IdMap::MatchUser(Some(user.into()))),
            (MATCH_USER, user) => Err(format!("`{user}` is no user: write a name, UID or UID:GID")),
            (USERNS, "") => Ok(IdMap::Userns),
            (USERNS, _) => Err("`userns` takes no user".into()),
            (other, _) => Err(format!("`{other}` is no id mapping: write `match-user`, `match-user:USER` or `userns`")),
        }
    }
}

/// `user[:group]`, each a name or a number; what the image does not have is found at the start.
fn is_user(text: &str) -> bool {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ':' | '/' | ','));
    is_name(user) && group.is_none_or(is_name)
}

impl FromStr for IdMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((MATCH_USER, "")) => Err("`match-user:` names no user: write `match-user`, or `match-user:USER`".into()),
            Some((source, user)) => IdMap::of_parts(source, user),
            None => IdMap::of_parts(text, ""),
        }
    }
}

impl Display for IdMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (source, "") => f.write_str(source),
            (source, user) => write!(f, "{source}:{user}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        for text in ["match-user", "match-user:app", "match-user:1000", "match-user:1000:1001", "match-user:app:staff", "userns"]
        {
            let map: IdMap = text.parse().expect(text);
            assert_eq!(map.to_string(), text);
            let (source, user) = map.parts();
            assert_eq!(IdMap::of_parts(source, user), Ok(map), "{text}");
        }
        for (text, word) in [
            ("", "no id mapping"),
            ("match", "no id mapping"),
            ("match-user:", "names no user"),
            ("match-user:a:b:c", "no user"),
            ("match-user::", "no user"),
            ("match-user:a b", "no user"),
            ("match-user:../x", "no user"),
            ("userns:1000", "takes no user"),
            ("uids=0-1-1", "no id mapping"),
        ] {
            let refused = text.parse::<IdMap>().expect_err(text);
            assert!(refused.contains(word), "{text}: {refused}");
        }
    }
}
