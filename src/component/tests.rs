//! Whatever a document holds: findings, never a panic, and every finding can be shown.

use super::{Component, Document, Rules, Strictness, plan};
use crate::support::source::Source;
use proptest::prelude::*;

const SEED: &str = "name: 'Ünïcode'
schemaVersion: 1.0
constants:
  - Const: {type: string, value: '1'}
parameters:
  - Param: {type: string, default: \"x\", allowedValues: [x, y]}
phases:
  - name: build
    steps:
      - name: First
        action: ExecuteBash
        timeoutSeconds: -1
        onFailure: Ignore
        loop: {name: Items, forEach: {list: 'a,b', delimiter: ','}}
        if: {not: {and: [{fileExists: /a}, {numberLessThan: 2, value: '{{ Param }}'}]}, then: Skip}
        inputs:
          commands:
            - |
              echo {{ Items.value }} {{{ Const }}} ${A:+${B}} {{ unclosed
            - echo \"é {{ aws:ssm:resolve(Param) }}\"
      - name: Second
        action: CreateFile
        inputs: [{path: '/é/{{ build.First.outputs[0].stdout }}', permissions: 0700, content: >-
            folded
            text}]
      - {name: Third, action: Assert, inputs: {patternMatches: '^[a-z]+$', value: a}}
      - {name: Fourth, action: WebDownload, inputs: [{source: 'https://x/é', destination: /a/}]}
";

/// Everything that is done with a document before it runs.
fn exercise(text: &str) {
    match Document::parse(&Source::new("f.yml", text), &Rules::default()) {
        Ok(document) => {
            document.warnings.iter().for_each(|d| assert!(!d.render().is_empty()));
            if let Ok(component) = Component::bind("f", document, &[], Strictness::CommandLine) {
                plan(&[component], None);
            }
        }
        Err(findings) => {
            assert!(findings.iter().any(|d| d.is_error()));
            findings.iter().for_each(|d| {
                assert!(!d.render().is_empty() && d.json().is_object());
            });
        }
    }
}

#[test]
fn the_seed_is_a_valid_document() {
    let found = Document::parse(&Source::new("seed.yml", SEED), &Rules::default());
    assert!(found.is_ok(), "{}", found.unwrap_err().iter().map(|d| d.render()).collect::<String>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_document_is_accepted_or_explained(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[{}\\[\\]:,'\"|>&*!%@#\\- \t\nñ0a]{0,4}"), 1..6)
    ) {
        let mut text: Vec<char> = SEED.chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        exercise(&text.into_iter().collect::<String>());
    }

    #[test]
    fn lines_in_another_order_are_accepted_or_explained(order in Just(SEED.lines().collect::<Vec<_>>()).prop_shuffle()) {
        exercise(&order.join("\n"));
    }

    #[test]
    fn any_text_is_accepted_or_explained(text in "\\PC{0,200}") {
        exercise(&text);
    }
}
