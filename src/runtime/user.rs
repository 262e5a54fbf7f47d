//! Users and groups of the image: `user[:group]` by name or number, looked up in the container's own files.

use super::error::StepFailed;
use crate::sys::regular::read_regular;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Whom a process runs as.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, in the order of /etc/group.
    pub groups: Vec<u32>,
    /// The home directory; `/` where passwd has none.
    pub home: String,
}

/// A passwd file larger than this is not one: the bound keeps a hostile image from filling memory.
pub const MAX_FILE: u64 = 16 << 20;

/// Looks a user up in a container's root directory: no link in it leads out.
///
/// # Errors
/// Which user or group the image does not have.
pub fn lookup(root: BorrowedFd<'_>, user: &str, group_add: &[String]) -> Result<Identity, StepFailed> {
    let text = |path: &str| {
        // An image need not have them.
        let text = read_regular(root, Path::new(path), MAX_FILE).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    resolve(&text("etc/passwd"), &text("etc/group"), user, group_add).map_err(|why| {
        let user = if user.is_empty() { "root" } else { user };
        let groups = if group_add.is_empty() { "" } else { " and the groups of `group_add`" };
        StepFailed::because(format!("finding the user `{user}`{groups}"), why)
    })
}

/// User and group by name or number, looked up in the texts of an image's passwd and group. A user that only passwd knows by
/// name has its group from there.
///
/// # Errors
/// A sentence: which user or group the image does not have.
pub fn resolve_in(passwd: &str, group: &str, user: &str) -> Result<(u32, u32), String> {
    let identity = resolve(passwd, group, user, &[])?;
    let (name, given) = user.split_once(':').map_or((user, false), |(name, _)| (name, true));
    // As Docker has it for COPY --chown: a number alone is the group's as well.
    let gid = if !given && number(name).is_some() { identity.uid } else { identity.gid };
    Ok((identity.uid, gid))
}

fn resolve(passwd: &str, group: &str, user: &str, group_add: &[String]) -> Result<Identity, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry =
        entries(passwd, 7).find(|f| f[0] == name).or_else(|| entries(passwd, 7).find(|f| f[2] == name && number(name).is_some()));
    let (uid, mut gid, home, login) = match &entry {
        Some(fields) => (
            number(fields[2]).ok_or_else(|| format!("the image's /etc/passwd has no valid uid for `{name}`"))?,
            number(fields[3]).unwrap_or(0),
            fields[5].to_string(),
            Some(fields[0]),
        ),
        None => match number(name) {
            Some(uid) => (uid, 0, String::new(), None),
            None => return Err(format!("the image has no user `{name}` in /etc/passwd")),
        },
    };
    let find_group = |wanted: &str| {
        group_id(group, wanted)
            .or_else(|| number(wanted))
            .ok_or_else(|| format!("the image has no group `{wanted}` in /etc/group"))
    };
    // As Docker has it: a group that is named replaces the user's groups, and the supplementary ones with them.
    let mut groups = Vec::new();
    match group_name {
        Some(wanted) => gid = find_group(wanted)?,
        None => {
            for fields in entries(group, 3) {
                let member = fields.get(3).is_some_and(|members| login.is_some_and(|l| members.split(',').any(|m| m == l)));
                if let Some(id) = number(fields[2]).filter(|_| member) {
                    groups.push(id);
                }
            }
        }
    }
    for wanted in group_add {
        let group = find_group(wanted)?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    Ok(Identity { uid, gid, groups, home: if home.is_empty() { "/".into() } else { home } })
}

/// A group's number, by its name in the text of a group(5).
pub fn group_id(group: &str, name: &str) -> Option<u32> {
    entries(group, 3).find(|fields| fields[0] == name).and_then(|fields| number(fields[2]))
}

fn entries(text: &str, least: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(move |fields| fields.len() >= least)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nbad\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nlog:x:4:www,other\nweb:x:50:\n";

    #[test]
    fn every_form() {
        let table = [
            ("", Ok((0, 0, vec![0], "/root"))),
            ("root", Ok((0, 0, vec![0], "/root"))),
            ("www", Ok((33, 33, vec![33, 4], "/var/www"))),
            ("33", Ok((33, 33, vec![33, 4], "/var/www"))),
            ("www:web", Ok((33, 50, vec![50], "/var/www"))),
            ("1000", Ok((1000, 0, vec![0], "/"))),
            ("1000:1001", Ok((1000, 1001, vec![1001], "/"))),
            ("nobody", Err("the image has no user `nobody` in /etc/passwd")),
            ("www:none", Err("the image has no group `none` in /etc/group")),
        ];
        for (user, expected) in table {
            let got = resolve(PASSWD, GROUP, user, &[]);
            let expected =
                expected.map(|(uid, gid, groups, home)| Identity { uid, gid, groups, home: home.into() }).map_err(str::to_string);
            assert_eq!(got, expected, "{user:?}");
        }
    }

    #[test]
    fn a_group_is_found_by_its_name() {
        let groups = "root:x:0:\ndocker2:x:7:\ndocker:x:999:me\nbad\n";
        assert_eq!((group_id(groups, "docker"), group_id(groups, "bad"), group_id(groups, "none")), (Some(999), None, None));
    }
}
