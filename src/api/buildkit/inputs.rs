//! Results of builds as contexts of others (`target:` of `buildx bake`, `service:` of `docker compose build`).
//!
//! A client that wants the result of a build for another asks for its build graph and hands that on. wharf has none: a result's
//! graph is one source, whose name is the result's. No other graph is taken.

use super::grpc::{Code, GrpcStatus};
use crate::image::Digest;
use bollard_buildkit_proto::pb::{Definition, Input, Op, SourceOp, op};
use prost::Message;
use std::collections::HashMap;

/// The beginning of a result's name as a source.
const RESULT: &str = "wharf-result://";

/// Graphs that came with a call, by the names that its attributes use.
pub(super) type Inputs = HashMap<String, Definition>;

/// The graph that stands for a result.
pub(super) fn definition(id: &str) -> Definition {
    let source = SourceOp { identifier: format!("{RESULT}{id}"), ..SourceOp::default() };
    let source = Op { op: Some(op::Op::Source(source)), ..Op::default() }.encode_to_vec();
    let digest = Digest::of(&source).to_string();
    // The last one says which of the others is meant.
    let end = Op { inputs: vec![Input { digest, index: 0 }], ..Op::default() }.encode_to_vec();
    Definition { def: vec![source, end], ..Definition::default() }
}

/// The result that a graph stands for.
///
/// # Errors
/// Any other graph.
pub(super) fn result_of(definition: &Definition) -> Result<String, GrpcStatus> {
    let other = || GrpcStatus::new(Code::Unimplemented, "wharf builds Dockerfiles, and no build graphs (LLB) of its clients");
    let [source, _] = definition.def.as_slice() else { return Err(other()) };
    match Op::decode(source.as_slice()).map_err(|_| other())?.op {
        Some(op::Op::Source(source)) => source.identifier.strip_prefix(RESULT).map(str::to_string).ok_or_else(other),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_stands_for_a_result_or_is_refused() {
        let graph = definition("abc");
        assert_eq!(result_of(&graph).expect("a result"), "abc");
        let [source, end] = graph.def.as_slice() else { panic!("two") };
        let end = Op::decode(end.as_slice()).expect("an operation");
        assert_eq!(end.inputs[0].digest, Digest::of(source).to_string());
        let of = |identifier: &str| {
            let source = SourceOp { identifier: identifier.into(), ..SourceOp::default() };
            let source = Op { op: Some(op::Op::Source(source)), ..Op::default() }.encode_to_vec();
            Definition { def: vec![source, Vec::new()], ..Definition::default() }
        };
        for wrong in [
            of("docker-image://x"),
            of("local://context"),
            Definition::default(),
            Definition { def: vec![vec![0xff; 9]; 2], ..Definition::default() },
        ] {
            assert!(result_of(&wrong).is_err(), "{wrong:?}");
        }
    }
}
