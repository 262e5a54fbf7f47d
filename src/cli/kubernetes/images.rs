//! Images that are built here: they are built and pushed before an apply, and named by digest.

use crate::api::reply::escape;
use crate::cli::project::build::{self, BuildFlags, image_name};
use crate::cli::project::push::push_named;
use crate::cli::{Failure, Global, Outcome, connect};
use crate::compose::Loaded;
use crate::kubernetes::{has_registry, unpushed};
use std::collections::BTreeMap;

/// Refuses a project whose images no cluster could pull.
///
/// # Errors
/// When a service is built here and nobody has said where its image goes.
pub fn require_pushed(loaded: &Loaded) -> Outcome {
    let unpushed = unpushed(&loaded.project);
    if unpushed.is_empty() {
        return Ok(());
    }
    Err(Failure::Message(format!(
        "the cluster cannot pull images that are built here: {}\nbuild and push them with --push REGISTRY, or name one beside `build` (`image: REGISTRY/NAME:TAG`), then `wharf build && wharf push`",
        unpushed.join(", ")
    )))
}

/// The name of an image below a registry: `REGISTRY/NAME:TAG`.
fn below(registry: &str, image: &str) -> String {
    let path = match image.split_once('/') {
        Some((_, rest)) if has_registry(image) => rest,
        _ => image,
    };
    format!("{}/{path}", registry.trim_end_matches('/'))
}

/// Builds the images of all services that have a `build`, pushes them to a registry, and names them by digest in the project.
///
/// # Errors
/// The build's, or the registry's.
pub async fn push_all(global: &Global, loaded: &mut Loaded, registry: &str) -> Outcome {
    build::name_images(&mut loaded.project);
    let with_jobs = crate::cli::jobs::run::with_jobs_as_services(loaded).into_owned();
    let built = with_jobs.project.services.iter().filter(|(_, service)| service.build.is_some());
    let names: Vec<String> = built.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let client = connect::engine(global).await?;
    build::build_services(&client, &with_jobs, &names, &BuildFlags::default()).await?;
    let mut pushed: BTreeMap<String, String> = BTreeMap::new();
    for name in &names {
        let image = image_name(&with_jobs.project, name);
        if pushed.contains_key(&image) {
            continue;
        }
        let target = below(registry, &image);
        client.post_nothing(&format!("/images/{}/tag?repo={}", escape(&image), escape(&target))).await?;
        let digest = push_named(&client, &target, false).await?.ok_or_else(|| {
            Failure::Message(format!("pushing {target}: the registry has not said by which digest it knows the image"))
        })?;
        pushed.insert(image, format!("{}@{digest}", without_tag(&target)));
    }
    // A service without `build` may use the image that another one builds.
    let jobs = loaded.project.jobs.values_mut().map(|job| &mut job.service);
    for service in loaded.project.services.values_mut().chain(jobs) {
        if let Some(by_digest) = service.image.as_ref().and_then(|image| pushed.get(image)) {
            service.image = Some(by_digest.clone());
        }
    }
    Ok(())
}

fn without_tag(image: &str) -> &str {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_a_registry() {
        for (image, expected) in [
            ("shop-web", "r.example:5000/team/shop-web"),
            ("team/web:1.0", "r.example:5000/team/team/web:1.0"),
            ("localhost:5000/web:1.0", "r.example:5000/team/web:1.0"),
        ] {
            assert_eq!(below("r.example:5000/team/", image), expected);
        }
        assert_eq!(without_tag("r.example:5000/web"), "r.example:5000/web");
        assert_eq!(without_tag("r.example:5000/web:1.0"), "r.example:5000/web");
    }
}
