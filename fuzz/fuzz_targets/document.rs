//! Component documents, on every platform: a document with its plan, or findings that can be shown.

#![no_main]

use kiln::component::{Component, Document, Platform, Rules, Strictness, plan};
use kiln::support::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source::new("fuzz.yml", text);
    for platform in [None, Some(Platform::Linux), Some(Platform::Windows), Some(Platform::MacOs)] {
        match Document::parse(&source, &Rules { platform, ..Rules::default() }) {
            Ok(document) => {
                document.warnings.iter().for_each(|w| drop(w.render()));
                assert!(document.warnings.iter().all(|w| !w.is_error()));
                let steps: usize = document.phases.iter().map(|p| p.steps.len()).sum();
                let bound = Component::bind("fuzz", document, &[], Strictness::CommandLine);
                if let Ok(component) = bound {
                    assert_eq!(plan(&[component], None).len(), steps);
                }
            }
            Err(findings) => {
                assert!(findings.iter().any(|f| f.is_error()));
                for finding in &findings {
                    assert!(finding.span.start <= finding.span.end && finding.span.end <= text.len());
                    finding.render();
                    finding.json();
                }
            }
        }
    }
});
