//! docs/ARCHITECTURE.md says which room of `src/` may use which. The drawing and the code are held against each other here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The table below the heading "Which room may use which".
fn drawn() -> Arrows {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let section = text.split("## Which room may use which").nth(1).expect("the section of the arrows");
    let section = section.split("\n## ").next().unwrap_or_default();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_string).collect::<BTreeSet<_>>();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        let room = quoted(cells.next().unwrap_or_default()).pop_first().expect("a room");
        (room, quoted(cells.next().unwrap_or_default()))
    })
    .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the source").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The first name after each `crate::` of a line, those in braces included.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).flat_map(|rest| {
        let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap_or_default());
        group.map_or(vec![rest], |group| group.split(", ").collect()).into_iter().map(|name| {
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len());
            &name[..end]
        })
    })
}

fn written() -> BTreeMap<(String, String), String> {
    let source = root().join("src");
    let mut paths = Vec::new();
    files(&source, &mut paths);
    let mut arrows = BTreeMap::new();
    for path in paths {
        let inner = path.strip_prefix(&source).expect("a file of the source");
        let room = inner.components().next().expect("a room").as_os_str().to_string_lossy().replace(".rs", "");
        if room == "lib" || room == "main" {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a file of the source");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for used in named(line).filter(|used| !used.is_empty() && *used != room) {
                let place = format!("src/{}:{}", inner.display(), number + 1);
                arrows.entry((room.clone(), used.to_string())).or_insert(place);
            }
        }
    }
    arrows
}

#[test]
fn rooms_use_what_the_architecture_draws() {
    let (drawn, written) = (drawn(), written());
    let undrawn: Vec<String> = written
        .iter()
        .filter(|((room, used), _)| !drawn.get(room).is_some_and(|allowed| allowed.contains(used)))
        .map(|((room, used), place)| format!("{place}: {room} uses {used}"))
        .collect();
    assert!(undrawn.is_empty(), "the table in docs/ARCHITECTURE.md does not allow: {undrawn:#?}");
    let unused: Vec<String> = drawn
        .iter()
        .flat_map(|(room, allowed)| allowed.iter().map(move |used| (room.clone(), used.clone())))
        .filter(|arrow| !written.contains_key(arrow))
        .map(|(room, used)| format!("{room} -> {used}"))
        .collect();
    assert!(unused.is_empty(), "drawn, and used by nobody: {unused:?}");
}

#[test]
fn no_two_rooms_use_each_other() {
    let drawn = drawn();
    for (room, allowed) in &drawn {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = allowed.iter().map(String::as_str).collect();
        while let Some(other) = next.pop() {
            if reached.insert(other) {
                next.extend(drawn.get(other).into_iter().flatten().map(String::as_str));
            }
        }
        assert!(!reached.contains(room.as_str()), "{room} uses itself through {reached:?}");
    }
}
