//! Any text as a Compose file, through every stage that reads nothing but the tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::compose::{canonical, check::Check, finish, merge, schema, yaml};

fuzz_target!(|text: &str| {
    let Ok(documents) = yaml::parse(0, text) else { return };
    let mut merged: Option<wharf::compose::node::Node> = None;
    for mut document in documents {
        let mut found = Vec::new();
        Check::new(false).check(&document, &schema::PROJECT, &mut found);
        canonical::canonicalise(&mut document, &schema::PROJECT, false, &mut found);
        match &mut merged {
            None => merged = Some(document),
            Some(base) => merge::merge(base, document, &schema::PROJECT),
        }
    }
    if let Some(mut root) = merged {
        merge::drop_reset(&mut root);
        merge::unify_tree(&mut root, &schema::PROJECT);
        let mut found = Vec::new();
        finish::finish(&mut root, &schema::PROJECT, false, &mut found);
        let _ = wharf::compose::model::Project::from_tree(&root);
    }
});
