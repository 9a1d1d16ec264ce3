//! Asking a condition.

use super::context::{Context, StepError};
use super::resolve::Resolver;
use crate::component::condition::{Comparison, Condition, Test, compare_numbers, compare_texts};
use kiln_protocol::message::{EntryKind, Operation, Reply};
use std::future::Future;
use std::pin::Pin;

/// A pattern as `patternMatches` takes it: RE2 syntax, whatever the case, unanchored.
///
/// # Errors
/// It is no pattern.
pub fn pattern(text: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    regex_lite::RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build()
}

/// In order; `and` and `or` stop as soon as they are decided.
pub fn judge<'f>(
    condition: &'f Condition,
    resolver: &'f Resolver<'_>,
    context: &'f Context<'_>,
) -> Pin<Box<dyn Future<Output = Result<bool, StepError>> + Send + 'f>> {
    Box::pin(async move {
        match condition {
            Condition::And(list) => {
                for inner in list {
                    if !judge(inner, resolver, context).await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Condition::Or(list) => {
                for inner in list {
                    if judge(inner, resolver, context).await? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Condition::Not(inner) => judge(inner, resolver, context).await.map(|truth| !truth),
            Condition::Compare(comparison) => compare(comparison, resolver, context).await,
        }
    })
}

async fn compare(
    comparison: &Comparison,
    resolver: &Resolver<'_>,
    context: &Context<'_>,
) -> Result<bool, StepError> {
    let operand = resolver.text(&comparison.operand).await?;
    let companion = match &comparison.companion {
        Some(template) => resolver.text(template).await?,
        None => String::new(),
    };
    Ok(match comparison.operator.test {
        Test::Empty => operand.is_empty(),
        Test::Whitespace => !operand.is_empty() && operand.chars().all(char::is_whitespace),
        Test::Text(wanted) => wanted.contains(&compare_texts(&companion, &operand)),
        Test::Pattern => pattern(&operand)
            .map_err(|e| StepError::failed(format!("`{operand}` is no regular expression: {e}")))?
            .is_match(&companion),
        // What is no number is not equal, less or greater.
        Test::Number(wanted) => compare_numbers(&companion, &operand).is_some_and(|o| wanted.contains(&o)),
        Test::Binary => context.binary_exists(&operand).await?,
        Test::File => {
            let entry = context.stat(&context.absolute(&operand), true).await?;
            entry.is_some_and(|e| e.kind != EntryKind::Folder)
        }
        Test::Folder => {
            let entry = context.stat(&context.absolute(&operand), true).await?;
            entry.is_some_and(|e| e.kind == EntryKind::Folder)
        }
        Test::Digest(algorithm) => {
            let path = context.absolute(&companion);
            context.must_be_file(&path).await?;
            match context.call(Operation::Hash { path, algorithm }).await? {
                Reply::Hash(digest) => digest.eq_ignore_ascii_case(&operand),
                other => return Err(StepError::failed(format!("Hash was answered with {other:?}"))),
            }
        }
    })
}
