use super::*;
use crate::support::yaml::{Fields, Kind};

fn read(text: &str) -> (Option<Node>, Findings) {
    let source = Source::new("t.yml", text);
    let mut findings = Findings::new(&source);
    let node = parse(&source, Limits::default(), &mut findings);
    (node, findings)
}

#[test]
fn nodes_know_their_text_style_and_place() {
    let (node, findings) = read("é: 0777\nb:\n  - |\n    x {{ y }}\n\n  - 'q'\nv: 1.0\n");
    assert!(findings.list.is_empty(), "{:?}", findings.list);
    let node = node.unwrap();
    let map = node.mapping().unwrap();
    let mode = map.get("é").unwrap();
    assert_eq!((mode.scalar().unwrap().text.as_str(), mode.span.line, mode.span.column), ("0777", 1, 4));
    let items = map.get("b").unwrap().sequence().unwrap();
    assert_eq!(items[0].scalar().unwrap().style, Style::Block);
    assert_eq!(findings.source.slice(items[0].span), "x {{ y }}");
    assert_eq!(findings.source.find(items[0].span, "{{ y }}", 0).column, 7);
    assert_eq!(items[1].scalar().unwrap().style, Style::Quoted);
    assert_eq!(map.get("v").unwrap().scalar().unwrap().kind(), Kind::Float);
}

#[test]
fn json_is_read() {
    let (node, findings) = read("{\"a\": [1, {\"b\": \"c\\n\"}],\n\t\"d\": true}");
    assert!(findings.list.is_empty(), "{:?}", findings.list);
    assert_eq!(node.unwrap().mapping().unwrap().entries.len(), 2);
}

#[test]
fn hostile_texts_end_in_one_error() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    let deep_block = "- ".repeat(10_000);
    for (text, code) in [
        (bomb.as_str(), "too-large"),
        (&*"[".repeat(10_000), "too-deep"),
        (&deep_block, "too-deep"),
        (&*"x".repeat((1 << 20) + 1), "too-large"),
        ("a: b\0c", "yaml"),
        ("a: &x [*x]", "yaml"),
        ("", "empty"),
        ("a: b\n---\nc: d\n", "yaml"),
    ] {
        let (node, findings) = read(text);
        assert!(node.is_none());
        assert_eq!(findings.list.len(), 1, "{:?}", findings.list);
        assert_eq!(findings.list[0].code, code, "{}", findings.list[0].message);
    }
}

#[test]
fn traps_are_named() {
    for (text, part) in [
        ("a:\n\tb: c\n", "spaces"),
        ("x: {{ a }}/foo\n", "'{{ a }}/foo'"),
        ("x: *log\n", "'*log'"),
        ("x: @foo\n", "in quotes"),
        ("x: echo a: b\n", "in quotes"),
        ("a:\n  - |\n    cat <<E\nfoo bar\n    E\n  - b\n", "line 4 is indented less"),
        ("x: \"a\" b\n", "closing quote"),
        ("name: a\n version: 1\n", "begins further right than line 1"),
        ("steps:\n  - name: a\n    action: b\n   inputs: c\n", "how this line is indented"),
    ] {
        let (_, findings) = read(text);
        let help = findings.list[0].help.clone().unwrap_or_default();
        assert!(help.contains(part), "{text:?}: {} / {help}", findings.list[0].message);
    }
}

#[test]
fn aliases_repeat_and_duplicate_keys_are_reported() {
    let (node, findings) = read("a: &x {k: 1}\nb: *x\na: 2\n");
    assert_eq!(findings.list[0].code, "duplicate-key");
    assert_eq!((findings.list[0].span.line, findings.list[0].span.column), (3, 1));
    let node = node.unwrap();
    assert!(node.mapping().unwrap().get("b").unwrap().mapping().unwrap().get("k").is_some());
}

#[test]
fn fields_report_all_errors_at_once() {
    let (node, mut findings) =
        read("nmae: x\ncount: many\nwait: 'yes'\nextra: 1\ncmd:\n  - echo \"A: b\"\n  - {{ x }}\n");
    let node = node.unwrap();
    let mut fields = Fields::of(&node, "the recipe", &mut findings).unwrap();
    assert!(fields.required("name", &mut findings).is_none());
    assert!(fields.required("version", &mut findings).is_none());
    let count = fields.optional("count").unwrap();
    assert!(findings.integer(count, "`count`").is_none());
    let wait = fields.optional("wait").unwrap();
    assert!(findings.boolean(wait, "`wait`").is_none());
    for item in fields.optional("cmd").unwrap().sequence().unwrap() {
        assert!(findings.text(item, "a command").is_none());
    }
    fields.finish(&mut findings);
    let shown: Vec<String> = findings
        .into_sorted()
        .iter()
        .map(|d| format!("{}:{} {}", d.span.line, d.code, d.help.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        shown,
        [
            "1:missing-field ",
            "1:unknown-field did you mean `name`?",
            "2:wrong-type ",
            "3:wrong-type ",
            "4:unknown-field it has these: name, version, count, wait, cmd",
            "6:wrong-type put the whole text in quotes: 'echo \"A: b\"'",
            "7:wrong-type YAML reads `{{` as the start of a mapping; put it in quotes: '{{ x }}'",
        ]
    );
}
