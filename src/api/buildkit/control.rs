//! `/grpc`: the services `moby.buildkit.v1.Control` and `moby.buildkit.v1.frontend.LLBBridge`, as far as Docker's clients call them.

use super::grpc::{self, Code, GrpcBody, GrpcStatus};
use super::subrequests::Subrequest;
use super::{attributes, cache, inputs, jobs, session};
use crate::engine::Engine;
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::result::Result as Returned;
use bollard_buildkit_proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
use bollard_buildkit_proto::pb::Platform;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Calls of one client at once. A build has three, and `buildx bake` any number of builds.
const MAX_STREAMS: u32 = 128;
const MAX_HEADERS: u32 = 64 << 10;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(60);

/// What the gateway can do: answer with results as this version of the protocol has them, and evaluate them.
const CAPABILITIES: [&str; 15] = [
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "readfile",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "gateway.solve.metadata",
    "frontend.caps",
    "frontend.inputs",
    "reference.output",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];

/// Serves a client until it leaves. Its calls end with it.
///
/// # Errors
/// When it does not speak HTTP/2.
pub(super) async fn serve(
    engine: Arc<Engine>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(), String> {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let service = service_fn(move |request| {
        let engine = engine.clone();
        async move { Ok::<_, Infallible>(answer(&engine, request).await) }
    });
    http.serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
}

async fn answer(engine: &Arc<Engine>, request: Request<Incoming>) -> Response<GrpcBody> {
    let path = request.uri().path().to_string();
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match service {
        "moby.buildkit.v1.Control" => control(engine, method, request).await,
        "moby.buildkit.v1.frontend.LLBBridge" => bridge(engine, method, request).await,
        _ => unknown(&path),
    }
}

fn unknown(path: &str) -> Response<GrpcBody> {
    grpc::failed(&GrpcStatus::new(Code::Unimplemented, format!("wharf does not answer the call {path}")))
}

async fn control(engine: &Arc<Engine>, method: &str, request: Request<Incoming>) -> Response<GrpcBody> {
    match method {
        "Info" => {
            let info = async |_: control::InfoRequest| Ok(control::InfoResponse { buildkit_version: Some(version()) });
            grpc::unary(request, info).await
        }
        "ListWorkers" => {
            let list = async |_: control::ListWorkersRequest| Ok(control::ListWorkersResponse { record: vec![worker()] });
            grpc::unary(request, list).await
        }
        "Solve" => {
            let solve = async |message: control::SolveRequest| {
                let exporter_response = jobs::solve(engine, message).await?;
                Ok(control::SolveResponse { exporter_response })
            };
            grpc::unary(request, solve).await
        }
        "Status" => status(request).await,
        "Session" => match session::Offer::of(request.headers()) {
            Ok(offer) => grpc::streamed(session::serve_call(offer, grpc::Messages::new(request.into_body()))),
            Err(why) => grpc::failed(&GrpcStatus::new(Code::InvalidArgument, why)),
        },
        "DiskUsage" => {
            let usage = async |_: control::DiskUsageRequest| cache::usage(engine).await;
            grpc::unary(request, usage).await
        }
        "Prune" => {
            let pruned = async { cache::prune(engine, grpc::only(request).await?).await };
            match pruned.await {
                Ok(records) => grpc::all(records),
                Err(status) => grpc::failed(&status),
            }
        }
        "ListenBuildHistory" => {
            // Nothing is kept of builds: the history has ended before it began.
            match grpc::only::<control::BuildHistoryRequest>(request).await {
                Ok(_) => grpc::all(Vec::<control::BuildHistoryEvent>::new()),
                Err(status) => grpc::failed(&status),
            }
        }
        _ => unknown(request.uri().path()),
    }
}

/// The progress of a build until its end.
async fn status(request: Request<Incoming>) -> Response<GrpcBody> {
    let job = match grpc::only::<control::StatusRequest>(request).await {
        Ok(message) => jobs::find(&message.r#ref).await,
        Err(status) => Err(status),
    };
    let job = match job {
        Ok(job) => job,
        Err(status) => return grpc::failed(&status),
    };
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = job.progress.next() => next,
                () = sender.closed() => None,
            };
            let Some(status) = next else { return };
            if sender.send(Ok(status)).await.is_err() {
                return;
            }
        }
    });
    grpc::streamed(receiver)
}

async fn bridge(engine: &Arc<Engine>, method: &str, request: Request<Incoming>) -> Response<GrpcBody> {
    let reference =
        request.headers().get("buildkit-controlapi-buildid").and_then(|id| id.to_str().ok()).unwrap_or_default().to_string();
    let job = match jobs::find(&reference).await {
        Ok(job) => job,
        Err(status) => return grpc::failed(&status),
    };
    match method {
        "Ping" => {
            let capability = |id: &&str| ApiCap { id: (*id).to_string(), enabled: true, ..ApiCap::default() };
            let pong = gateway::PongResponse {
                frontend_api_caps: CAPABILITIES.iter().map(capability).collect(),
                workers: vec![worker()],
                ..gateway::PongResponse::default()
            };
            grpc::unary(request, async |_: gateway::PingRequest| Ok(pong)).await
        }
        "Solve" => {
            let solve = async |message: gateway::SolveRequest| {
                if message.frontend.is_empty() && !message.definition.as_ref().is_some_and(jobs::has_graph) {
                    return Ok(gateway::SolveResponse::default());
                }
                jobs::refuse_graphs(message.definition.as_ref())?;
                if let Some(subrequest) = Subrequest::of(&message.frontend_opt)? {
                    attributes::check_frontend(&message.frontend, &message.frontend_opt)?;
                    let metadata = job.answer(engine, subrequest, &message.frontend_opt).await?;
                    let result = gateway::Result { metadata, ..gateway::Result::default() };
                    return Ok(gateway::SolveResponse { result: Some(result), ..gateway::SolveResponse::default() });
                }
                let id = job.build(engine, &message.frontend, &message.frontend_opt, &message.frontend_inputs).await?;
                let def = Some(inputs::definition(&id));
                let result = Some(Returned::Ref(gateway::Ref { id: id.clone(), def }));
                let result = gateway::Result { result, ..gateway::Result::default() };
                Ok(match message.allow_result_return {
                    true => gateway::SolveResponse { result: Some(result), ..gateway::SolveResponse::default() },
                    false => gateway::SolveResponse { r#ref: id, result: None },
                })
            };
            grpc::unary(request, solve).await
        }
        "Evaluate" => {
            let evaluate = async |message: gateway::EvaluateRequest| {
                job.check_built(&message.r#ref)?;
                Ok(gateway::EvaluateResponse {})
            };
            grpc::unary(request, evaluate).await
        }
        "Return" => {
            let take = async |message: gateway::ReturnRequest| {
                job.take_returned(match message.error {
                    Some(error) if error.code != 0 => Err(error.into()),
                    _ => Ok(message.result.and_then(|result| result.result)),
                })?;
                Ok(gateway::ReturnResponse {})
            };
            grpc::unary(request, take).await
        }
        "Warn" => {
            let warn = async |message: gateway::WarnRequest| {
                job.progress.warn(control::VertexWarning {
                    vertex: message.digest,
                    level: message.level,
                    short: message.short,
                    detail: message.detail,
                    url: message.url,
                    info: message.info,
                    ranges: message.ranges,
                });
                Ok(gateway::WarnResponse {})
            };
            grpc::unary(request, warn).await
        }
        _ => unknown(request.uri().path()),
    }
}

fn version() -> BuildkitVersion {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    BuildkitVersion { package: "wharf".into(), version, revision: String::new() }
}

/// wharf as a worker of BuildKit's: this machine.
fn worker() -> WorkerRecord {
    let platform = Platform { os: "linux".into(), architecture: crate::image::architecture().into(), ..Platform::default() };
    WorkerRecord { id: "wharf".into(), platforms: vec![platform], buildkit_version: Some(version()), ..WorkerRecord::default() }
}
