//! `kiln image lineage`.

use crate::cli::Settings;
use crate::cli::render::Format;
use crate::model::{Failure, ImageStatus};
use crate::service::Service;
use crate::service::lineage::{self, Kind, Node};
use serde_json::{Value, json};

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Asked {
    Base,
    Image,
    Component,
}

pub fn run(service: &Service, name: &str, asked: Option<Asked>, settings: &Settings) -> Result<u8, Failure> {
    let asked = asked.map(|asked| match asked {
        Asked::Base => Kind::Base,
        Asked::Image => Kind::Image,
        Asked::Component => Kind::Component,
    });
    let found = lineage::descendants(service, name, asked)?;
    match settings.format {
        Format::Json => println!("{}", json!({"lineage": found.iter().map(record).collect::<Vec<_>>()})),
        Format::Human => found.iter().for_each(|node| {
            println!("{}", told(node));
            branches(node, "").iter().for_each(|line| println!("{line}"));
        }),
    }
    Ok(0)
}

fn told(node: &Node) -> String {
    let digest = node.digest.as_ref().map(|d| format!("  sha256:{}", &d[..d.len().min(12)]));
    let status = node.status.filter(|s| *s != ImageStatus::Available).map(|s| format!("  {s}"));
    let none = match (node.children.is_empty(), node.kind) {
        (true, Kind::Base | Kind::Component) => "  (no image)",
        _ => "",
    };
    format!("{}{}{}{none}", node.title, digest.unwrap_or_default(), status.unwrap_or_default())
}

/// Lines below a node; `margin` is what stands before each.
fn branches(node: &Node, margin: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, child) in node.children.iter().enumerate() {
        let last = at + 1 == node.children.len();
        let (branch, more) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push(format!("{margin}{branch}{}", told(child)));
        lines.extend(branches(child, &format!("{margin}{more}")));
    }
    lines
}

fn record(node: &Node) -> Value {
    json!({
        "kind": match node.kind { Kind::Base => "base", Kind::Image => "image", Kind::Component => "component" },
        "name": node.title,
        "digest": node.digest.as_ref().map(|d| format!("sha256:{d}")),
        "status": node.status.map(|s| s.as_str()),
        "descendants": node.children.iter().map(record).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(title: &str, children: Vec<Node>) -> Node {
        Node {
            kind: Kind::Image,
            title: title.into(),
            digest: None,
            status: Some(ImageStatus::Available),
            children,
        }
    }

    #[test]
    fn a_tree_has_its_branches_in_place() {
        let failed = Node { status: Some(ImageStatus::Failed), ..image("d", Vec::new()) };
        let tree = image("a", vec![image("b", vec![image("c", Vec::new())]), image("e", vec![failed])]);
        assert_eq!(branches(&tree, ""), ["├─ b", "│  └─ c", "└─ e", "   └─ d  FAILED"]);
    }
}
