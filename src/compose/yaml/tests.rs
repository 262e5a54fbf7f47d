use super::*;

fn one(text: &str) -> serde_json::Value {
    parse(0, text).expect("valid").remove(0).to_json()
}

#[test]
fn scalars_are_those_of_docker_compose() {
    let table = [
        ("yes", r#""yes""#),
        ("on", r#""on""#),
        ("true", "true"),
        ("0o644", "420"),
        ("0644", "420"),
        ("1_000", "1000"),
        ("3.10", "3.1"),
        ("22:22", r#""22:22""#),
        ("0x10", "16"),
        ("1e3", "1000.0"),
        ("-", r#"[null]"#),
        ("1.2.3", r#""1.2.3""#),
        ("~", "null"),
        ("'12'", r#""12""#),
        ("!!str 12", r#""12""#),
        ("09", "9.0"),
    ];
    for (text, expected) in table {
        assert_eq!(one(text).to_string(), expected, "{text}");
    }
}

#[test]
fn anchors_and_merge_keys() {
    let json = one("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}");
    assert_eq!(json["b"], serde_json::json!({"y": 3, "x": 1}));
    assert_eq!(json["c"], serde_json::json!({"x": 1, "y": 2, "z": 4}));
}

#[test]
fn duplicate_keys_are_refused_with_their_place() {
    let error = parse(0, "a: 1\nb: 2\na: 3\n").expect_err("duplicate");
    let at = error.at.expect("place");
    assert_eq!((at.line, at.column), (3, 1));
}

#[test]
fn alias_bombs_are_refused() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(parse(0, &text).is_err());
    assert!(parse(0, &"[".repeat(5000)).is_err());
    // Few aliases of a long text are many bytes as well.
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; 1000].join(","));
    assert!(parse(0, &long).is_err());
}

#[test]
fn texts_are_read_as_go_yaml_reads_them() {
    let table = [
        // Brackets and quotes: indentation does not count within.
        ("a:\n  b: [\n    x,\n  ]\n  c: 1", r#"{"a":{"b":["x"],"c":1}}"#),
        ("a:\n  b: [\n    x\n]\n  c: 1", r#"{"a":{"b":["x"],"c":1}}"#),
        ("a:\n  b: {x: 1,\ny: 2\n}\nc: 1", r#"{"a":{"b":{"x":1,"y":2}},"c":1}"#),
        ("a:\n  b: \"one\ntwo\"\n  c: 1", r#"{"a":{"b":"one two","c":1}}"#),
        ("a:\n  b: 'one\n\n two'", r#"{"a":{"b":"one\ntwo"}}"#),
        ("a: \"x \\\n   y\"", r#"{"a":"x y"}"#),
        ("a: [b, 'c''d', \"e\\tf\\u00e9\"]", r#"{"a":["b","c'd","e\tfé"]}"#),
        // Tabs.
        ("a:\tb\nc:\t|\n  x", r#"{"a":"b","c":"x"}"#),
        ("a:\t\n  b: [\t1,\n\t2]\t# c", r#"{"a":{"b":[1,2]}}"#),
        // Lists that are not indented, and nothing.
        ("a:\n- x\n- y: 1\n  z: 2\n-\nb:", r#"{"a":["x",{"y":1,"z":2},null],"b":null}"#),
        ("- - a\n  - b\n- c", r#"[["a","b"],"c"]"#),
        ("? a\n: b\n? c", r#"{"a":"b","c":null}"#),
        // Plain texts.
        ("a: b c\n   d\n\n   e # no\nf: g#h", r#"{"a":"b c d\ne","f":"g#h"}"#),
        ("a: x:y\nb: -c\nd: :e\nf: ?g", r#"{"a":"x:y","b":"-c","d":":e","f":"?g"}"#),
        ("[a b: c, {d: e, f}, g: , http://x:80]", r#"[{"a b":"c"},{"d":"e","f":null},{"g":null},"http://x:80"]"#),
        ("{a: , b: {c}, 'd': x, \"e\":1}", r#"{"a":null,"b":{"c":null},"d":"x","e":1}"#),
        ("[a, :b, -c, ]", r#"["a",":b","-c"]"#),
        // Blocks.
        ("a: |\n  x\n   y\n\n  z\n\nb: 1", r#"{"a":"x\n y\n\nz\n","b":1}"#),
        ("a: >-\n  x\n  y\n\n  z\n   w\n  v\n", r#"{"a":"x y\nz\n w\nv"}"#),
        ("a: |+\n  x\n\nb: |2-\n   y\nc: |", r#"{"a":"x\n\n","b":" y","c":""}"#),
        ("a:\n  - |\n    x\n  - y", r#"{"a":["x\n","y"]}"#),
        ("a: | # c\n    x\n\n    # y\n", r##"{"a":"x\n\n# y\n"}"##),
        ("a: |\n\n\n   x", r#"{"a":"\n\nx"}"#),
        // Tags, anchors, comments, ends of lines.
        ("a: !reset {}\nb: !reset [x]\nc: [!reset x, y]", r#"{"a":null,"b":null,"c":["y"]}"#),
        ("a: &x\n  b: 1\nc: *x\nd: {<<: *x, e: *x }", r#"{"a":{"b":1},"c":{"b":1},"d":{"e":{"b":1},"b":1}}"#),
        ("a: !!str 12\nb: !!int '12'\nc: ! 12\nd: &y", r#"{"a":"12","b":12,"c":"12","d":null}"#),
        ("# c\r\na: b\r\n\r\nc: 'd\r\n  e'\r\n", r#"{"a":"b","c":"d e"}"#),
        ("%YAML 1.1\n---\na: 1\n...\n", r#"{"a":1}"#),
        ("a: &x {b: 1}\nc:\n  !!merge <<: *x\n  d: 2", r#"{"a":{"b":1},"c":{"d":2,"b":1}}"#),
        ("é: [ü, 'ö']", r#"{"é":["ü","ö"]}"#),
    ];
    for (text, expected) in table {
        let read = parse(0, text).unwrap_or_else(|error| panic!("{text}: {}", error.message));
        assert_eq!(read[0].to_json().to_string(), expected, "{text}");
    }
}

#[test]
fn what_is_not_yaml_is_refused_where_it_is() {
    let table = [
        ("a: b: c", (1, 5)),
        ("a:\n\tb: 1", (2, 1)),
        ("a: [b", (1, 6)),
        ("a: b]\nc: ]", (2, 4)),
        ("a: {b: c]", (1, 9)),
        ("a: 'b", (1, 4)),
        ("a:\n   b: 1\n  c: 2", (3, 3)),
        ("- a\nb: 1", (2, 1)),
        ("a: 1\n- b", (2, 1)),
        ("a: \"\\q\"", (1, 5)),
        ("a: @b", (1, 4)),
        ("a: |x", (1, 5)),
        ("a: &", (1, 4)),
        ("a: b\nc", (2, 1)),
        ("a: 1\u{1}", (1, 5)),
        ("a: &x [*x]", (1, 8)),
        ("'a'\n'b'", (2, 1)),
        ("a:\t- b", (1, 4)),
        ("- \ta", (1, 3)),
    ];
    for (text, place) in table {
        let error = parse(0, text).expect_err(text);
        let at = error.at.unwrap_or_else(|| panic!("{text}: no place"));
        assert_eq!((at.line, at.column), place, "{text}: {}", error.message);
    }
    assert_eq!(parse(0, "a: 1\n---\nb: 2\n---\n# c\n").expect("documents").len(), 3);
    assert!(parse(0, "").expect("nothing").is_empty() && parse(0, "# c\n\n").expect("nothing").is_empty());
}
