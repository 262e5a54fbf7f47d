//! `wharf job`: the registered jobs and their runs.

pub mod run;

use super::objects::network::{confirmed, delete_each, for_each};
use super::output::format::{self, Column, RowFormat};
use super::project::logs::{self, LogOptions};
use super::{Failure, Global, Outcome, connect};
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::jobs::RunState;
use crate::units::time_text;
use crate::wire::{JobDetails, JobRun, JobSummary, JobsPruned};
use jiff::Timestamp;
use serde_json::{Value, json};

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum JobCommand {
    /// List the registered jobs of all projects.
    #[command(alias = "list")]
    Ls {
        /// Names alone.
        #[arg(short, long)]
        quiet: bool,
        /// table, json, or a template such as '{{.Name}}'.
        #[arg(long, default_value = "table")]
        format: RowFormat,
    },
    /// List the runs of a job, the newest first.
    Runs {
        /// PROJECT.JOB, an id, or the job's name alone where one project has it.
        job: String,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Only runs before one of this number.
        #[arg(long, value_name = "ITERATION")]
        before: Option<u64>,
        /// table, json, or a template such as '{{.State}}'.
        #[arg(long, default_value = "table")]
        format: RowFormat,
    },
    /// Print what is known of a job, or of a run of it, in JSON.
    Inspect {
        job: String,
        /// A run's number or id.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// A template, such as '{{.NextFire}}'; json is on one line.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Start a run, and print its id. `wharf run JOB` also shows its output.
    Run {
        job: String,
        /// Let it stand for the next run of the schedule.
        #[arg(long)]
        reschedule: bool,
    },
    /// Show the output of a run: by default the last one.
    Logs {
        job: String,
        /// A run's number or id.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        #[command(flatten)]
        how: LogOptions,
    },
    /// Wait for the end of a run; its exit code is this command's.
    Wait {
        job: String,
        /// A run's number or id.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
    },
    /// End a run: by default the one that goes on.
    Cancel {
        job: String,
        /// A run's number or id.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
    },
    /// Have a schedule start nothing.
    Pause {
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// Have a schedule start runs again.
    Resume {
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// Remove jobs; a run that goes on is cancelled.
    #[command(alias = "remove")]
    Rm {
        #[arg(required = true)]
        jobs: Vec<String>,
        /// The runs, their containers and logs: keep, remove, remove-finished.
        #[arg(long, default_value = "keep", value_parser = ["keep", "remove", "remove-finished"], value_name = "FATE")]
        runs: String,
    },
    /// Remove the jobs without a schedule that have no run going on, with their runs.
    Prune {
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
        /// Those with a label alone, NAME[=VALUE]; may be repeated.
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
    },
}

fn path(job: &str, rest: &str) -> String {
    format!("/jobs/{}{rest}", escape(job))
}

/// `?run=RUN`, where one is named.
fn of_run(run: Option<&str>) -> String {
    run.map(|run| format!("?run={}", escape(run))).unwrap_or_default()
}

pub async fn job(global: &Global, command: JobCommand) -> Outcome {
    let client = connect::engine(global).await?;
    match command {
        JobCommand::Ls { quiet, format } => list(&client, quiet, &format).await,
        JobCommand::Runs { job, limit, before, format } => {
            let mut runs: Vec<JobRun> = client.get(&path(&job, "/runs")).await?;
            runs.retain(|run| before.is_none_or(|before| run.iteration < before));
            runs.truncate(limit.unwrap_or(usize::MAX));
            const COLUMNS: [Column; 7] = [
                ("Iteration", "ITERATION"),
                ("State", "STATE"),
                ("ExitCode", "EXIT"),
                ("Trigger", "TRIGGER"),
                ("Started", "STARTED"),
                ("Finished", "FINISHED"),
                ("ContainerID", "CONTAINER"),
            ];
            format.print(&COLUMNS, &runs.iter().map(run_row).collect::<Vec<_>>())
        }
        JobCommand::Inspect { job, run, format } => {
            let details: JobDetails = client.get(&path(&job, "")).await?;
            let value = match run {
                None => serde_json::to_value(&details),
                Some(wanted) => serde_json::to_value(find(&details.runs, &job, &wanted)?),
            };
            format::inspected(format.as_deref(), &[value.unwrap_or_default()])
        }
        JobCommand::Run { job, reschedule } => {
            let rest = if reschedule { "/run?reschedule=1" } else { "/run" };
            let run: JobRun = client.post(&path(&job, rest), &Value::Null).await?;
            println!("{}", run.id);
            Ok(())
        }
        JobCommand::Logs { job, run, how } => show_logs(&client, &job, run.as_deref(), &how).await,
        JobCommand::Wait { job, run } => wait(&client, &job, run.as_deref()).await,
        JobCommand::Cancel { job, run } => {
            let run: JobRun = client.post(&path(&job, &format!("/cancel{}", of_run(run.as_deref()))), &Value::Null).await?;
            println!("{}", run.id);
            Ok(())
        }
        JobCommand::Pause { jobs } => for_each(&jobs, async |job| client.post_nothing(&path(job, "/pause")).await).await,
        JobCommand::Resume { jobs } => for_each(&jobs, async |job| client.post_nothing(&path(job, "/resume")).await).await,
        JobCommand::Rm { jobs, runs } => delete_each(&client, &jobs, |job| path(job, &format!("?runs={runs}"))).await,
        JobCommand::Prune { force, label } => {
            if !confirmed("This removes all jobs without a schedule, with their runs.", force).await? {
                return Ok(());
            }
            let labels: Vec<String> = label.iter().map(|label| format!("label={}", escape(label))).collect();
            let pruned: JobsPruned = client.post(&format!("/jobs/prune?{}", labels.join("&")), &Value::Null).await?;
            pruned.jobs.iter().for_each(|job| println!("{job}"));
            Ok(())
        }
    }
}

async fn list(client: &Client, quiet: bool, format: &RowFormat) -> Outcome {
    let jobs: Vec<JobSummary> = client.get("/jobs").await?;
    if quiet {
        jobs.iter().for_each(|job| println!("{}", job.name));
        return Ok(());
    }
    let row = |job: &JobSummary| {
        let last = job.last_run.as_ref();
        let next = job.next_fire.map_or_else(|| "-".into(), |next| format!("in {}", lower(seconds(Timestamp::now(), next))));
        json!({
            "ID": job.id.get(..12).unwrap_or(&job.id), "Name": job.name, "Project": job.project, "Job": job.job,
            "Trigger": job.trigger, "State": job.state, "Paused": job.paused.to_string(),
            "LastRun": last.map_or_else(|| "-".into(), |run| match run.finished_at.or(run.started_at) {
                Some(at) => format!("{} ({})", run.state.as_str(), ago(Some(at))),
                None => run.state.as_str().into(),
            }),
            "Exit": last.map_or_else(|| "-".into(), exit), "NextFire": next,
            "NextFireAt": job.next_fire.map(|next| next.to_string()),
        })
    };
    const COLUMNS: [Column; 7] = [
        ("Name", "NAME"),
        ("Trigger", "TRIGGER"),
        ("State", "STATE"),
        ("Paused", "PAUSED"),
        ("LastRun", "LAST RUN"),
        ("Exit", "EXIT"),
        ("NextFire", "NEXT FIRE"),
    ];
    format.print(&COLUMNS, &jobs.iter().map(row).collect::<Vec<_>>())
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    time_text(to.duration_since(from).as_secs().max(0))
}

/// Docker's words begin a sentence; within one they do not.
fn lower(text: String) -> String {
    text.replacen("About", "about", 1).replacen("Less", "less", 1)
}

fn ago(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{} ago", seconds(time, Timestamp::now())))
}

fn exit(run: &JobRun) -> String {
    run.exit_code.map_or_else(|| "-".into(), |code| code.to_string())
}

fn run_row(run: &JobRun) -> Value {
    let container = run.container.as_deref().unwrap_or("-");
    json!({
        "ID": run.id, "Iteration": run.iteration, "State": run.state.as_str(), "ExitCode": exit(run), "Trigger": run.trigger.as_str(),
        "Started": ago(run.started_at), "Finished": ago(run.finished_at), "ContainerID": container.get(..12).unwrap_or(container),
        "Container": run.container, "CreatedAt": run.created_at.to_string(), "StartedAt": run.started_at.map(|at| at.to_string()),
        "FinishedAt": run.finished_at.map(|at| at.to_string()), "DueAt": run.due_at.map(|at| at.to_string()), "Error": run.error,
    })
}

fn find<'a>(runs: &'a [JobRun], job: &str, wanted: &str) -> Result<&'a JobRun, Failure> {
    let found = runs.iter().find(|run| run.id == wanted || run.iteration.to_string() == wanted);
    found
        .ok_or_else(|| Failure::Message(format!("no run `{wanted}` of the job {job} is kept; `wharf job runs {job}` lists them")))
}

/// The exit code of a command that stays with a run to its end.
fn code_of(run: &JobRun) -> u8 {
    match (run.state, run.exit_code) {
        (RunState::Succeeded, _) => 0,
        // As a shell has it for Ctrl-C, and as timeout(1) has it.
        (RunState::Cancelled, _) => 130,
        (RunState::TimedOut, _) => 124,
        (_, Some(code)) if code != 0 => code as u8,
        _ => 1,
    }
}

async fn wait(client: &Client, job: &str, run: Option<&str>) -> Outcome {
    let path = path(job, &format!("/wait{}", of_run(run)));
    ended_by(&client.ask_again(async || client.post(&path, &Value::Null).await).await?)
}

/// Says why a run has failed, and ends a command by its exit code.
pub fn ended_by(run: &JobRun) -> Outcome {
    if let Some(error) = &run.error {
        eprintln!("{}", crate::printable::lines(error));
    }
    match code_of(run) {
        0 => Ok(()),
        code => Err(Failure::Code(code)),
    }
}

/// Shows the output of a run. Following, it goes on with the next runs.
async fn show_logs(client: &Client, job: &str, run: Option<&str>, how: &LogOptions) -> Outcome {
    let runs: Vec<JobRun> = client.get(&path(job, "/runs")).await?;
    let wanted: Vec<&JobRun> = match run {
        Some(run) => vec![find(&runs, job, run)?],
        None => runs.iter().filter(|run| run.container.is_some()).collect(),
    };
    let mut after = 0;
    let mut shown = false;
    for run in wanted {
        if show_run(client, job, run, how).await? {
            (after, shown) = (run.iteration, true);
            break;
        }
    }
    if !shown && !how.follows() {
        return Err(Failure::Message(match run {
            Some(run) => format!("no logs available: the run {run} of the job {job} has none any more"),
            None => format!("no logs available: no run of the job {job} has any; `wharf job run {job}` starts one"),
        }));
    }
    while how.follows() && run.is_none() {
        let next: JobRun = client.get(&path(job, &format!("/next?after={after}"))).await?;
        after = next.iteration;
        show_run(client, job, &next, how).await?;
    }
    Ok(())
}

/// Shows the log of a run's container, whether that is there or not. False where there is none.
async fn show_run(client: &Client, job: &str, run: &JobRun, how: &LogOptions) -> Result<bool, Failure> {
    let Some(container) = &run.container else { return Ok(false) };
    match logs::of_container(client, container, how).await {
        Ok(()) => return Ok(true),
        Err(Failure::Client(ClientError::Refused { status: 404, .. })) => {}
        Err(error) => return Err(error),
    }
    let details: JobDetails = client.get(&path(job, "")).await?;
    logs::of_gone_container(client, &details.summary.project, container, how).await
}
