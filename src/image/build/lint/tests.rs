//! Each rule on a small file.

use super::super::dockerfile::parse;
use super::*;

fn found(text: &str, checks: &str) -> Vec<String> {
    let environment = |image: &str| (image == "known").then(|| vec!["VERSION".to_string()]);
    let checks = Checks::parse(checks).expect("options");
    let all = lint(text, &parse(text).expect("right"), &checks, &environment);
    all.iter().map(LintFinding::short).collect()
}

#[test]
fn rules_find_what_they_are_about() {
    for (text, expected) in [
        ("FROM a AS Base", &["StageNameCasing: Stage name 'Base' should be lowercase (line 1)"][..]),
        ("FROM a as base", &["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]),
        ("from a as base", &[]),
        ("FROM a\nRUN x \\\n\n  y", &["NoEmptyContinuation: Empty continuation line (line 2)"]),
        ("FROM a\nRUN x \\\n  # comment\n  y\n\n", &[]),
        ("FROM a\nRUN <<EOF\n\nx\nEOF\n", &[]),
        (
            "FROM a\nrun x\nRUN y",
            &["ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 2)"],
        ),
        (
            "from a\nrun x\nRun y",
            &["ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase) (line 3)"],
        ),
        (
            "FROM a AS one\nFROM b AS one",
            &["DuplicateStageName: Duplicate stage name \"one\", stage names should be unique (line 2)"],
        ),
        (
            "FROM a AS context",
            &["ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 1)"],
        ),
        (
            "FROM a\nCMD echo hi",
            &[
                "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)",
            ],
        ),
        ("FROM a\nSHELL [\"/bin/sh\", \"-c\"]\nENTRYPOINT x\nHEALTHCHECK CMD x", &[]),
        ("FROM a\nCMD [\"x\"]", &[]),
        (
            "FROM a\nMAINTAINER me",
            &["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"],
        ),
        (
            "ARG VERSION=1\nFROM a:$VERSIN",
            &[
                "UndefinedArgInFrom: FROM argument 'VERSIN' is not declared (did you mean VERSION?) (line 2)",
                "InvalidDefaultArgInFrom: Default value for ARG a:$VERSIN results in empty or invalid base image name (line 2)",
            ],
        ),
        (
            "ARG TAG\nFROM a:$TAG",
            &["InvalidDefaultArgInFrom: Default value for ARG a:$TAG results in empty or invalid base image name (line 2)"],
        ),
        ("ARG V=20\nARG I=node:${V}\nFROM ${I}\nFROM alpine-$TARGETARCH", &[]),
        ("ARG TAG=1\nFROM a:${TAG}\nFROM --platform=$BUILDPLATFORM b:${TAG:-2}", &[]),
        (
            "FROM a\nWORKDIR x\nWORKDIR y",
            &["WorkdirRelativePath: Relative workdir \"x\" can have unexpected results if the base image changes (line 2)"],
        ),
        ("FROM a AS one\nWORKDIR /x\nFROM one\nWORKDIR y", &[]),
        (
            "FROM scratch\nENV PATH=$PAHT:/bin",
            &["UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)"],
        ),
        ("FROM known\nARG V=$VERSION\nCOPY $V ${X:-y} '$Z' \\$Z /", &[]),
        ("FROM unknown\nCOPY $X /", &[]),
        ("FROM known AS one\nARG A\nFROM one\nCOPY $A$B /", &["UndefinedVar: Usage of undefined variable '$B' (line 4)"]),
        ("FROM scratch\nRUN echo $X\nCMD [\"$X\"]", &[]),
        (
            "FROM a\nCMD [\"1\"]\nCMD [\"2\"]",
            &[
                "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 2)",
            ],
        ),
        (
            "FROM a\nENV name some value",
            &["LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)"],
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            &[
                "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)",
            ],
        ),
        (
            "FROM --platform=linux/amd64 a AS one\nFROM --platform=linux/amd64 a AS two_amd64",
            &["FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\" (line 1)"],
        ),
        (
            "ARG TOKEN\nFROM scratch\nARG DB_PASSWORD\nENV PUBLIC_KEY=1 monkey=2 API_KEY_FILE=3 TOKEN_VERSION=4",
            &["SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"DB_PASSWORD\") (line 3)"],
        ),
        (
            "FROM scratch\nEXPOSE 80 80/TCP 127.0.0.1:80:80/udp $PORT/$PROTO",
            &[
                "ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)",
                "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80/udp' (line 2)",
                "UndefinedVar: Usage of undefined variable '$PORT' (line 2)",
                "UndefinedVar: Usage of undefined variable '$PROTO' (line 2)",
            ],
        ),
    ] {
        assert_eq!(found(text, ""), expected, "{text}");
    }
}

#[test]
fn rules_are_skipped_or_refused() {
    let text = "FROM a AS Base\nCMD x";
    assert_eq!(found(text, "skip=StageNameCasing, X").len(), 1);
    assert!(found(text, "skip=all").is_empty());
    assert!(Checks::parse("skip=A;error=true").expect("options").is_error);
    for wrong in ["x", "error=maybe", "other=1"] {
        assert!(Checks::parse(wrong).is_err(), "{wrong}");
    }
    let long = format!("FROM scratch\n{}", "ENV a b\n".repeat(2 * MOST));
    assert_eq!(found(&long, "").len(), MOST);
}

#[test]
fn a_rule_has_a_page() {
    let page = |rule: &str| LintFinding { rule: rule.into(), message: String::new(), lines: (1, 1) }.url();
    assert_eq!(page("JSONArgsRecommended"), "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/");
    assert_eq!(page("SecretsUsedInArgOrEnv"), "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/");
}

/// Seconds of this thread.
fn processor_time() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("clock").tv_sec()
}

/// The files are strangers', and checks run where others wait.
#[test]
fn a_file_of_a_megabyte_is_checked_in_a_moment() {
    let many = |n: usize, word: &dyn Fn(usize) -> String| (0..n).map(word).collect::<Vec<_>>().join(" ");
    let env = many(40_000, &|i| format!("ABC{i}=1"));
    let used = many(40_000, &|i| format!("$XYZ{i}"));
    let long = "A".repeat(250_000);
    for text in [
        format!("FROM scratch\nENV {env}\nCOPY {used} /"),
        format!("FROM scratch\nENV {long}=1\nCOPY ${long}B /"),
        format!("ARG {env}\nFROM i:{}", many(40_000, &|i| format!("$B{i}"))),
        format!("FROM scratch AS s\nENV {env}\n{}", "FROM s AS s\n".repeat(50_000)),
        (0..50_000).map(|i| format!("FROM scratch AS s{i}\n")).collect(),
        (0..50_000).map(|i| format!("FROM image{i}\n")).collect(),
        format!("ARG A=aaaaaaaaaaaaaaaa\n{}FROM $A", "ARG A=$A$A\n".repeat(30_000)),
        format!("FROM scratch\n{}", "CMD x\n".repeat(150_000)),
    ] {
        let begun = processor_time();
        let file = parse(&text).expect("right");
        lint(&text, &file, &Checks::parse("").expect("options"), &|_| Some(Vec::new()));
        let _ = super::super::stages::split(file);
        let took = processor_time() - begun;
        assert!(took < 3, "{took} s: {}...", &text[..40]);
    }
}

#[test]
fn a_comment_above_an_instruction_skips_rules() {
    let count = |text: &str, checks: &str| found(text, checks).len();
    for (text, expected) in [
        ("FROM a AS b\n# check=skip=JSONArgsRecommended\nCMD x", 0),
        ("FROM a AS b\n# why\n# Check = skip=JSONArgsRecommended,Other  as it is\n\nCMD x", 0),
        ("FROM a AS b\n# check=skip=all\nCMD x", 0),
        ("FROM a AS b\n# check=skip=UndefinedVar\nCMD x", 1),
        ("FROM a AS b\n# check=skip=UndefinedVar\n# check=skip=all\nCMD x", 1),
        ("FROM a AS b\n# check=skip=JSONArgsRecommended\nRUN y\nCMD x", 1),
        ("FROM a AS b\n# check=skip=JSONArgsRecommended\n#\nCMD x", 1),
        ("FROM a AS b\n# check=nonsense\nCMD x", 1),
        ("FROM a AS b\nRUN y \\\n# check=skip=all\n  z\nCMD x", 1),
        ("ARG A\n# check=skip=StageNameCasing\nFROM a AS Base", 0),
    ] {
        assert_eq!(count(text, ""), expected, "{text}");
    }
    assert_eq!(count("FROM a\n# check=error=true;skip=all\nCMD x\n", "error=true"), 0);
}
