//! `wharf image build`: its flags as a build request, and what becomes of the result.

use super::output::{self, OutputOption};
use super::values::{agent_flag, agents, arguments, attest, check_context, epoch, secret, ulimit};
use super::{BuildFlags, build_one, progress, push_cache};
use crate::api::reply::escape;
use crate::cli::{Failure, Global, Outcome, connect, output_file};
use crate::image::build::BuildRequest;
use crate::image::build::git::GitRef;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct ImageBuild {
    /// The directory to build from; `-` is a tar archive on standard input.
    context: String,
    /// Name of the image; may be repeated.
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// The Dockerfile; by default the one in the directory.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stage to build.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image, NAME=VALUE; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Network of RUN: default, host or none.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Address of a host, NAME:ADDRESS; may be repeated.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    /// Size of /dev/shm.
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Secret for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME. May be repeated.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Another context, NAME=DIRECTORY or NAME=docker-image://IMAGE; may be repeated.
    #[arg(long = "build-context", value_name = "NAME=CONTEXT")]
    contexts: Vec<String>,
    /// os/architecture; this machine's is the only one that can be built.
    #[arg(long)]
    platform: Option<String>,
    /// Image whose steps may be taken instead of making them; may be repeated.
    #[arg(long, value_name = "IMAGE")]
    cache_from: Vec<String>,
    /// Where others find the steps: type=inline, or type=registry,ref=IMAGE. May be repeated.
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Stage of which every step is made anew; may be repeated.
    #[arg(long, value_name = "STAGE")]
    no_cache_filter: Vec<String>,
    /// Limit of RUN, NAME=SOFT[:HARD]; may be repeated.
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// Entitlement that RUN may use: security.insecure. May be repeated.
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Attestation of the image: type=provenance,mode=max or type=sbom,generator=IMAGE. May be repeated.
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built, with its digests, to a file in JSON.
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Where the result goes instead of the store: a directory, or type=local|tar|oci|docker,dest=PATH, type=image,push=true. With
    /// tar=false, oci and docker write a directory.
    #[arg(short, long = "output", value_name = "OUTPUT")]
    outputs: Vec<OutputOption>,
    /// Push the image under each of its names.
    #[arg(long)]
    push: bool,
    /// Docker's: the image is in the store in any case.
    #[arg(long, hide = true)]
    load: bool,
    #[command(flatten)]
    flags: BuildFlags,
}

pub async fn image_build(global: &Global, command: ImageBuild) -> Outcome {
    // An image whose result is only written to a file or directory gets no name.
    let away = !command.outputs.is_empty() && command.outputs.iter().all(OutputOption::takes_it_away);
    let mut tags = command.tags.clone();
    tags.extend(command.outputs.iter().filter_map(|output| match output {
        OutputOption::Image { name, .. } => name.clone(),
        _ => None,
    }));
    let push = command.push || command.outputs.iter().any(|output| matches!(output, OutputOption::Image { push: true, .. }));
    if push && (tags.is_empty() || away) {
        return Err(Failure::Message(
            "an image without a name cannot be pushed: give it one with -t, and no other --output".into(),
        ));
    }
    let from_input = command.context == "-";
    let request = BuildRequest { tags: if away { Vec::new() } else { tags.clone() }, passing: away, ..command.request()? };
    let client = connect::engine(global).await?;
    let built = if from_input {
        let query = serde_json::to_string(&request).map_err(|e| Failure::Message(e.to_string()))?;
        let lines = client.post_stream_lines(&format!("/build?request={}", escape(&query)), tokio::io::stdin()).await?;
        progress::show(lines, "", &command.flags).await?
    } else {
        build_one(&client, &request, "", &command.flags).await?
    };
    push_cache(&client, &built, &command.cache_to, command.flags.quiet).await?;
    for output in &command.outputs {
        output.write(&client, &built, &tags).await?;
    }
    for name in tags.iter().filter(|_| push) {
        crate::cli::project::push::push_one(&client, name, command.flags.quiet).await?;
    }
    if let Some(file) = command.metadata_file {
        output::write_metadata(&file, &built, if away { &[] } else { &tags })?;
    }
    if let Some(file) = command.iidfile {
        output_file::write(&file, built.id.as_str())?;
    }
    if command.flags.quiet {
        println!("{}", built.id);
    }
    Ok(())
}

impl ImageBuild {
    /// The request of these flags, without the image's names.
    fn request(&self) -> Result<BuildRequest, Failure> {
        let here = std::env::current_dir().map_err(|e| Failure::Message(format!("finding the working directory: {e}")))?;
        let shm_size = self.shm_size.as_deref().map(|text| {
            let size = crate::units::bytes(text).and_then(|bytes| u64::try_from(bytes).ok());
            size.ok_or_else(|| Failure::Message(format!("`{text}` is not a size such as `64m`")))
        });
        let mut contexts = pairs(&self.contexts, "the context")?;
        for context in contexts.values_mut().filter(|context| !context.contains("://") && GitRef::parse(context).is_none()) {
            *context = here.join(&*context).to_string_lossy().into_owned();
        }
        for context in contexts.values() {
            check_context(context)?;
        }
        let git = GitRef::parse(&self.context).map(|_| self.context.clone());
        let elsewhere = self.context == "-" || git.is_some();
        let dockerfile = self.file.clone().map(|file| if elsewhere { file } else { here.join(file) });
        Ok(BuildRequest {
            checked: !self.flags.quiet,
            context: if elsewhere { PathBuf::new() } else { here.join(&self.context) },
            dockerfile,
            git,
            inline_cache: !self.cache_to.is_empty(),
            cache_from: self.cache_from.clone(),
            no_cache_filter: self.no_cache_filter.clone(),
            ssh: agents(self.flags.ssh.iter().map(|text| agent_flag(text)), &here)?,
            ulimits: self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            entitlements: self.allow.clone(),
            target: self.target.clone(),
            args: crate::cli::proxies::variables().into_iter().chain(arguments(&self.flags.build_args)).collect(),
            labels: pairs(&self.labels, "the label")?,
            no_cache: self.flags.no_cache,
            pull: self.flags.pull,
            network: self.network.clone(),
            extra_hosts: self.add_hosts.clone(),
            shm_size: shm_size.transpose()?,
            platform: self.platform.clone(),
            contexts,
            secrets: self.secrets.iter().map(|text| secret(text, &here)).collect::<Result<_, _>>()?,
            epoch: epoch(),
            attest: attest(&self.flags, &self.attest)?,
            ..BuildRequest::default()
        })
    }
}

/// `NAME=VALUE` pairs. `what` names the flag in the message about another form.
fn pairs(given: &[String], what: &str) -> Result<BTreeMap<String, String>, Failure> {
    let one = |pair: &String| {
        let (name, value) = pair.split_once('=').ok_or_else(|| Failure::Message(format!("{what} `{pair}` is not NAME=VALUE")))?;
        Ok((name.to_string(), value.to_string()))
    };
    given.iter().map(one).collect()
}
