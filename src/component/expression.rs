//! The `{{ }}` language: what a text with references is. Resolving them is `run::resolve`.

use super::name;
use crate::support::source::Span;
use std::fmt;

/// A text that may hold references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub parts: Vec<Part>,
    /// Where the scalar stands.
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Reference {
        reference: Reference,
        /// As written, braces included.
        written: String,
    },
    /// `{{ }}` around something that is no reference.
    Malformed {
        written: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A parameter or constant.
    Name(String),
    /// `loop.index`, `Users.value`.
    Loop {
        /// None is `loop`: the step's own loop, whatever its name.
        name: Option<String>,
        field: LoopField,
    },
    /// `build.Install.outputs[0].stdout`.
    Chain(Chain),
    Ssm(Ssm),
    /// A variable of the guest.
    Env(String),
    /// A path below `meta-data/`.
    Imds(String),
    Context(ContextKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopField {
    Index,
    Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub phase: String,
    pub step: String,
    pub side: Side,
    pub index: Option<usize>,
    pub field: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Inputs,
    Outputs,
}

/// A Parameter Store name, perhaps taken from somewhere else first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ssm {
    Name(String),
    /// The value of a document parameter is the name.
    OfParameter(String),
    /// The value behind another Parameter Store name is the name.
    OfSsm(Box<Ssm>),
}

macro_rules! context_keys {
    ($($variant:ident = $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ContextKey { $($variant),* }
        impl ContextKey {
            pub const ALL: &'static [ContextKey] = &[$(ContextKey::$variant),*];
            pub fn as_str(self) -> &'static str {
                match self { $(ContextKey::$variant => $name),* }
            }
        }
    };
}

context_keys! {
    ExecutionId = "executionId",
    AccountId = "accountId",
    Region = "region",
    OsPlatform = "osPlatform",
    OsName = "osName",
    OsVersion = "osVersion",
    Date = "date",
    DateTime = "dateTime",
    Uuid = "uuid",
    Hostname = "hostname",
    Phase = "phase",
    Step = "step",
}

impl Template {
    /// Never fails: what is no reference is [`Part::Malformed`] or plain text.
    ///
    /// A `{{` that is not closed on its line, and a lone `}}`, are plain text:
    /// documents that run in production have both.
    pub fn parse(text: &str, span: Span) -> Template {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            let inner_length = rest[at + 2..].find(['{', '}', '\n']).unwrap_or(usize::MAX);
            let closed = inner_length != usize::MAX && rest[at + 2 + inner_length..].starts_with("}}");
            if !closed {
                // One brace on: `{{{ x }}` holds a reference too.
                plain.push_str(&rest[..=at]);
                rest = &rest[at + 1..];
                continue;
            }
            plain.push_str(&rest[..at]);
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let end = at + 2 + inner_length + 2;
            let written = rest[at..end].to_owned();
            parts.push(match Reference::parse(&rest[at + 2..end - 2]) {
                Some(reference) => Part::Reference { reference, written },
                None => Part::Malformed { written },
            });
            rest = &rest[end..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Template { parts, span }
    }

    /// The text, when there is no reference in it.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|p| match p {
            Part::Reference { reference, .. } => Some(reference),
            _ => None,
        })
    }
}

impl Reference {
    /// Reads what stands between the braces.
    pub fn parse(text: &str) -> Option<Reference> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("aws:ssm:") {
            return ssm(rest).map(Reference::Ssm);
        }
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        if let Some(rest) = text.strip_prefix("aws:imds:") {
            return some(rest.trim_start_matches('/')).map(Reference::Imds);
        }
        if let Some(rest) = text.strip_prefix("env:") {
            return some(rest).map(Reference::Env);
        }
        if let Some(rest) = text.strip_prefix("context:") {
            let key = ContextKey::ALL.iter().find(|k| k.as_str() == rest)?;
            return Some(Reference::Context(*key));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let word = |s: &str| !s.is_empty() && s.chars().all(name::is_character);
        match parts[..] {
            [one] if word(one) => Some(Reference::Name(one.to_owned())),
            [owner, field] if word(owner) => {
                let field = match field {
                    "index" => LoopField::Index,
                    "value" => LoopField::Value,
                    _ => return None,
                };
                Some(Reference::Loop { name: (owner != "loop").then(|| owner.to_owned()), field })
            }
            [phase, step, side, field] if word(phase) && word(step) && word(field) => {
                let (side, index) = match side.split_once('[') {
                    Some((side, index)) => (side, Some(index.strip_suffix(']')?)),
                    None => (side, None),
                };
                let index = match index {
                    Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
                    Some(_) => return None,
                    None => None,
                };
                let side = match side {
                    "inputs" => Side::Inputs,
                    "outputs" => Side::Outputs,
                    _ => return None,
                };
                let [phase, step, field] = [phase, step, field].map(str::to_owned);
                Some(Reference::Chain(Chain { phase, step, side, index, field }))
            }
            _ => None,
        }
    }
}

fn ssm(text: &str) -> Option<Ssm> {
    let mut text = text.trim();
    let mut depth = 0;
    // resolve(aws:ssm:resolve(aws:ssm:resolve(Name))): peeled without recursion, so any depth is safe.
    while let Some(inner) = text.strip_prefix("resolve(").and_then(|t| t.strip_suffix(')')) {
        depth += 1;
        text = inner.trim();
        match text.strip_prefix("aws:ssm:") {
            Some(next) => text = next.trim(),
            None => {
                let parameter = !text.is_empty() && text.chars().all(name::is_character);
                let innermost = parameter.then(|| Ssm::OfParameter(text.to_owned()))?;
                return wrapped(innermost, depth - 1);
            }
        }
    }
    let fits = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':'));
    wrapped(Ssm::Name(text.to_owned()), depth).filter(|_| fits)
}

/// At most this many `resolve()` inside each other.
const RESOLVE_DEPTH: usize = 8;

fn wrapped(innermost: Ssm, depth: usize) -> Option<Ssm> {
    (depth <= RESOLVE_DEPTH).then(|| (0..depth).fold(innermost, |s, _| Ssm::OfSsm(Box::new(s))))
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Inputs => "inputs",
            Side::Outputs => "outputs",
        };
        write!(f, "{}.{}.{side}", self.phase, self.step)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        write!(f, ".{}", self.field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> Vec<Part> {
        Template::parse(text, Span::default()).parts
    }

    fn shown(text: &str) -> String {
        let each = parts(text).into_iter().map(|p| match p {
            Part::Text(t) => format!("T({t})"),
            Part::Reference { written, .. } => format!("R({written})"),
            Part::Malformed { written } => format!("M({written})"),
        });
        each.collect()
    }

    #[test]
    fn braces_that_close_on_their_line_are_expressions_and_nothing_else_is() {
        for (text, want) in [
            ("", "T()"),
            ("plain", "T(plain)"),
            ("a {{ X }}b{{X}}", "T(a )R({{ X }})T(b)R({{X}})"),
            (
                "'{{ build.Abc.outputs.stdout' == \"x\"\nfoo }}",
                "T('{{ build.Abc.outputs.stdout' == \"x\"\nfoo }})",
            ),
            ("${ID${V:+.${V}}}", "T(${ID${V:+.${V}}})"),
            ("{{{ Abc }}}", "T({)R({{ Abc }})T(})"),
            ("\\{\\{.Names}\\}", "T(\\{\\{.Names}\\})"),
            ("{{ .Names }}", "M({{ .Names }})"),
            ("{{}}", "M({{}})"),
            ("{{", "T({{)"),
            ("{{ env:ProgramFiles(x86) }}", "R({{ env:ProgramFiles(x86) }})"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn references_by_their_forms() {
        let name = |s: &str| Some(Reference::Name(s.into()));
        assert_eq!(Reference::parse(" App-Version_2 "), name("App-Version_2"));
        assert_eq!(
            Reference::parse("Users.value"),
            Some(Reference::Loop { name: Some("Users".into()), field: LoopField::Value })
        );
        assert_eq!(
            Reference::parse("loop.index"),
            Some(Reference::Loop { name: None, field: LoopField::Index })
        );
        let Some(Reference::Chain(chain)) = Reference::parse("build.Fetch.inputs[12].destination") else {
            panic!("a chain")
        };
        assert_eq!((chain.index, chain.side), (Some(12), Side::Inputs));
        assert_eq!(chain.to_string(), "build.Fetch.inputs[12].destination");
        assert_eq!(Reference::parse("aws:ssm:/a/b"), Some(Reference::Ssm(Ssm::Name("/a/b".into()))));
        assert_eq!(
            Reference::parse("aws:ssm:resolve(aws:ssm:/a)"),
            Some(Reference::Ssm(Ssm::OfSsm(Box::new(Ssm::Name("/a".into())))))
        );
        assert_eq!(
            Reference::parse("aws:ssm:resolve(Param)"),
            Some(Reference::Ssm(Ssm::OfParameter("Param".into())))
        );
        assert_eq!(Reference::parse("context:osName"), Some(Reference::Context(ContextKey::OsName)));
        for bad in [
            "",
            "a b",
            ".X",
            "a.b",
            "a.b.c.d",
            "a.b.outputs[x].c",
            "a.b.outputs[].c2[",
            "context:instanceId",
            "env:",
            "aws:ssm:",
            "aws:ssm:resolve()",
            "loop.name",
        ] {
            assert_eq!(Reference::parse(bad), None, "{bad}");
        }
        let deep = format!("aws:ssm:{}X{}", "resolve(aws:ssm:".repeat(5000), ")".repeat(5000));
        assert_eq!(Reference::parse(&deep), None);
    }

    proptest! {
        #[test]
        fn a_template_is_its_text_cut_up(text in "[a-z{}. \n:-]{0,60}") {
            let again: String = parts(&text).into_iter().map(|p| match p {
                Part::Text(t) => t,
                Part::Reference { written, .. } | Part::Malformed { written } => written,
            }).collect();
            prop_assert_eq!(again, text);
        }

        #[test]
        fn blanks_inside_the_braces_do_not_count(left in " {0,3}", right in "[ \t]{0,3}", n in "[A-Za-z0-9_-]{1,9}") {
            let want = Reference::Name(n.clone());
            let got = parts(&format!("x{{{{{left}{n}{right}}}}}y"));
            let is_wanted = matches!(&got[1], Part::Reference { reference, .. } if *reference == want);
            prop_assert!(is_wanted);
        }
    }
}
