//! `/jobs`: the registered jobs and their runs. `run` of a project's file is among [`super::projects`].

use super::reply::{self, Query, Reply};
use crate::engine::jobs::RunsFate;
use crate::engine::{Engine, EngineError};
use crate::wire::JobsPruned;
use hyper::Method;
use std::sync::Arc;

pub async fn route(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, path: &str) -> Reply {
    let run = query.get("run");
    match (method.as_str(), rest) {
        ("GET", []) => reply::json(200, &engine.list_jobs()),
        ("POST", ["prune"]) => {
            let jobs = engine.prune_jobs(query.all("label")).await?;
            reply::json(200, &JobsPruned { jobs })
        }
        ("GET", [name]) => reply::json(200, &engine.inspect_job(name)?),
        ("GET", [name, "runs"]) => reply::json(200, &engine.list_runs(name)?),
        ("GET", [name, "next"]) => reply::json(200, &engine.next_run_of(name, query.number("after").unwrap_or_default()).await?),
        ("POST", [name, "run"]) => reply::json(201, &engine.run_job(name, query.flag("reschedule"))?),
        ("POST", [name, "wait"]) => reply::json(200, &engine.wait_for_run(name, run).await?),
        ("POST", [name, "cancel"]) => reply::json(200, &engine.cancel_run(name, run)?),
        ("POST", [name, "pause"]) => {
            engine.pause_job(name, true)?;
            reply::empty(204)
        }
        ("POST", [name, "resume"]) => {
            engine.pause_job(name, false)?;
            reply::empty(204)
        }
        ("DELETE", [name]) => {
            let fate = match query.get("runs").unwrap_or("keep") {
                "keep" => RunsFate::Keep,
                "remove" => RunsFate::Remove,
                "remove-finished" => RunsFate::RemoveFinished,
                other => {
                    return Err(EngineError::Invalid(format!("`runs` is `{other}`: it is keep, remove or remove-finished")));
                }
            };
            engine.remove_job(name, fate).await?;
            reply::empty(204)
        }
        _ => super::server::not_found(method, path),
    }
}
