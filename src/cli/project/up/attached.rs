//! `up` in the foreground: shows the output of the containers, and stops them at Ctrl-C or when one of them ends.

use super::menu::{self, Menu, MenuKey};
use super::{OnSignal, Up, follow_with, outline, path, selected};
use crate::api::client::Client;
use crate::cli::project::logs::{self, HookLine, StopPhase};
use crate::cli::project::ps;
use crate::cli::signals::{HeldSignals, signalled};
use crate::cli::{Failure, Global, Outcome};
use crate::compose::Loaded;
use crate::plan::{LifecycleOptions, UpOptions};
use crate::wire::Progress;
use std::io::IsTerminal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{mpsc, oneshot, watch};

/// The output that `up` shows.
pub(super) struct Shown {
    pub(super) services: Vec<String>,
    pub(super) reader: u64,
    pub(super) names: Vec<String>,
    pub(super) hooks: UnboundedSender<HookLine>,
    pub(super) lines: UnboundedReceiver<HookLine>,
}

/// The containers that attached `up` shows, and how long those of the named services may take to stop at its end.
pub(super) struct Foreground {
    pub(super) shown: Shown,
    pub(super) timeout: Option<u32>,
}

fn view(command: &Up) -> logs::LogView {
    logs::LogView {
        follow: true,
        prefix: !command.no_log_prefix,
        coloured: crate::cli::output::coloured(std::io::stdout().is_terminal()) && !command.no_color,
        timestamps: command.timestamps,
        // As with Docker Compose.
        errors_apart: true,
        ..logs::LogView::default()
    }
}

/// Shows the output of what is brought up, from its first line on, until it has ended or the user ends it.
pub(super) async fn attached(
    global: &Global,
    client: &Client,
    loaded: &Loaded,
    command: &Up,
    Foreground { shown, timeout }: Foreground,
    up: impl Future<Output = Outcome> + Send,
) -> Outcome {
    // A wrapper passes on a signal that the terminal has sent already: the second comes between two listeners.
    let _held = HeldSignals::new()?;
    let view = view(command);
    let (stops, stopping) = watch::channel(StopPhase::NotBegun);
    let ending = ServicesToStop { client, loaded, services: &command.services, timeout, hooks: shown.hooks, stopping: stops };
    let (sender, mut exits) = mpsc::unbounded_channel();
    let (ready, is_ready) = oneshot::channel();
    let (lasts, is_over) = oneshot::channel::<()>();
    let for_up = logs::ForUp {
        exits: sender,
        bringing_up: Box::pin(async {
            let _ = is_ready.await;
        }),
        reader: shown.reader,
        ends_with: &command.services,
        names: shown.names,
        hooks: shown.lines,
        stopping,
        lasting: match command.watch {
            true => Box::pin(async {
                let _ = is_over.await;
            }),
            false => Box::pin(std::future::ready(())),
        },
    };
    let mut attached = std::pin::pin!(logs::attach(client, &loaded.project.name, &shown.services, &view, Some(for_up)));
    let menu = if command.menu { Menu::open() } else { None };
    let watching = async {
        up.await?;
        let _ = ready.send(());
        until_left(global, client, loaded, command, menu).await
    };
    let mut codes: Vec<i32> = Vec::new();
    let aborts = |code: &i32| ends_with(command, *code);
    let aborting = async {
        while let Some(code) = exits.recv().await {
            codes.push(code);
            if aborts(&code) {
                return;
            }
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        () = aborting => None,
        ended = &mut attached => Some(ended),
        ended = watching => return ended,
        _ = signalled() => {
            eprintln!("\nGracefully stopping... (press Ctrl+C again to force)");
            drop(lasts);
            end(&ending, attached).await?;
            // As with Docker Compose, whichever signal it was.
            return Err(Failure::Code(130));
        }
    };
    match ended {
        Some(ended) => ended?,
        None => {
            eprintln!("Aborting on container exit...");
            drop(lasts);
            end(&ending, attached).await?;
        }
    }
    codes.extend(std::iter::from_fn(|| exits.try_recv().ok()));
    let code = match &command.exit_code_from {
        Some(service) => exit_code_of(client, loaded, service).await?,
        None => codes.into_iter().find(aborts).unwrap_or(0),
    };
    if code == 0 { Ok(()) } else { Err(Failure::Code(code as u8)) }
}

/// Watches where that is asked for, and follows the keys of the menu; ends with the key that leaves, or with a failure.
async fn until_left(global: &Global, client: &Client, loaded: &Loaded, command: &Up, menu: Option<Menu>) -> Outcome {
    let watch = || Box::pin(super::super::watch::beside_up(global, client, loaded, &command.services));
    let mut watching = command.watch.then(watch);
    let Some(mut menu) = menu else {
        return match watching {
            Some(watching) => watching.await,
            None => std::future::pending().await,
        };
    };
    menu::show(watching.is_some());
    loop {
        let failed = async {
            match &mut watching {
                Some(watching) => watching.await,
                None => std::future::pending().await,
            }
        };
        let key = tokio::select! {
            ended = failed => return ended,
            key = menu.key() => key,
        };
        match key {
            MenuKey::Detach => return Ok(()),
            MenuKey::Watch if watching.is_none() && !super::super::watch::is_configured(loaded, &command.services) => {
                eprintln!("Watch → watch is not yet configured: a service needs `develop.watch`");
                continue;
            }
            MenuKey::Watch => watching = watching.is_none().then(watch),
            MenuKey::Show => {}
        }
        menu::show(watching.is_some());
    }
}

/// Whether a container's exit ends the command.
fn ends_with(command: &Up, code: i32) -> bool {
    let any = command.abort_on_container_exit || command.exit_code_from.is_some();
    any || (command.abort_on_container_failure && code != 0)
}

/// The exit code of a service's containers, shown or not.
async fn exit_code_of(client: &Client, loaded: &Loaded, service: &String) -> Result<i32, Failure> {
    let ended = ps::containers(client, &loaded.project.name, std::slice::from_ref(service), true).await?;
    Ok(ended.iter().map(|container| container.exit_code).find(|code| *code != 0).unwrap_or(0))
}

/// Has a hook's line shown among those of containers.
pub(super) fn pass_hook(hooks: Option<&UnboundedSender<HookLine>>, project: &str, progress: &Progress) {
    if let (Some(hooks), Progress::HookOutput { container, service, line }) = (hooks, progress) {
        let container = ps::short_name(container, project, service).to_string();
        let _ = hooks.send(HookLine { container, line: line.clone() });
    }
}

/// The services to stop.
struct ServicesToStop<'a> {
    client: &'a Client,
    loaded: &'a Loaded,
    services: &'a [String],
    timeout: Option<u32>,
    hooks: UnboundedSender<HookLine>,
    /// Tells who shows the output that hooks may be writing.
    stopping: watch::Sender<StopPhase>,
}

/// Stops services while their last words are shown; the output ends with the last container. A second Ctrl-C kills them, a third
/// leaves at once.
async fn end(ending: &ServicesToStop<'_>, attached: impl Future<Output = Outcome>) -> Outcome {
    ending.stopping.send_replace(StopPhase::Begun);
    let stopping = async {
        let stopped = stop(ending).await;
        ending.stopping.send_replace(StopPhase::Ended);
        stopped
    };
    let ending = async {
        let (stopped, shown) = tokio::join!(stopping, attached);
        shown.and(stopped)
    };
    let impatient = async {
        signalled().await;
        signalled().await
    };
    tokio::select! {
        ended = ending => ended,
        signal = impatient => Err(signal.failure()),
    }
}

/// Stops services; a signal kills them.
async fn stop(ending: &ServicesToStop<'_>) -> Outcome {
    let ServicesToStop { client, loaded, services, timeout, ref hooks, .. } = *ending;
    let outline = Some(outline(loaded));
    let options =
        LifecycleOptions { services: services.to_vec(), timeout, hook_output: true, outline, ..LifecycleOptions::default() };
    let (stop, kill) = (path(loaded, "stop"), path(loaded, "kill"));
    let leave = OnSignal::Leave;
    let each = |progress: &Progress| pass_hook(Some(hooks), &loaded.project.name, progress);
    tokio::select! {
        result = follow_with(client, &stop, &options, leave, false, each) => result,
        _ = signalled() => follow_with(client, &kill, &options, leave, false, |_| ()).await,
    }
}

/// The services whose output `up` shows; empty for every container of the project, `None` where there is none to show.
pub(super) fn shown(loaded: &Loaded, command: &Up) -> Option<Vec<String>> {
    let named = &command.services;
    let candidates = match (&command.attach[..], named.is_empty() || command.attach_dependencies) {
        ([], true) => selected(loaded, named, false),
        ([], false) => named.clone(),
        (attach, _) => return Some(attach.to_vec()),
    };
    let quiet = |name: &&String| {
        let service = loaded.project.services.get(*name);
        command.no_attach.contains(name) || service.is_some_and(|service| service.attach == Some(false))
    };
    if named.is_empty() && !candidates.iter().any(|name| quiet(&name)) {
        return Some(Vec::new());
    }
    let shown: Vec<String> = candidates.iter().filter(|name| !quiet(name)).cloned().collect();
    (!shown.is_empty()).then_some(shown)
}

/// The names by which the output of services is shown: `web-1`.
pub(super) fn container_names(loaded: &Loaded, services: &[String], options: &UpOptions) -> Vec<String> {
    let project = &loaded.project;
    let all = project.services.iter().filter(|(name, _)| services.is_empty() || services.contains(name));
    let names = all.flat_map(|(name, service)| {
        let count = options.scale.get(name).copied().unwrap_or_else(|| service.replicas());
        (1..=count).map(move |number| match &service.container_name {
            Some(own) => own.clone(),
            None => format!("{name}{}{number}", crate::cli::separator()),
        })
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
