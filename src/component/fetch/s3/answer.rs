//! What an S3 store answers, in XML.

use roxmltree::{Document, Node};

/// A page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub objects: Vec<Listed>,
    /// What to ask the next page with.
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

fn child<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let found = node.children().find(|n| n.has_tag_name(name) || n.tag_name().name() == name)?;
    Some(found.text().unwrap_or_default())
}

fn parse(text: &str) -> Result<Document<'_>, String> {
    Document::parse(text).map_err(|e| format!("the store's answer is no XML: {e}"))
}

/// ListObjectsV2.
pub fn listing(text: &str) -> Result<Listing, String> {
    let document = parse(text)?;
    let root = document.root_element();
    let mut listing = Listing::default();
    for node in root.children().filter(|n| n.tag_name().name() == "Contents") {
        let key = child(node, "Key").ok_or("an object without a key is in the store's list")?;
        let bytes = child(node, "Size").and_then(|s| s.parse().ok()).unwrap_or(0);
        listing.objects.push(Listed { key: key.to_owned(), bytes });
    }
    if child(root, "IsTruncated") == Some("true") {
        let next =
            child(root, "NextContinuationToken").ok_or("the store's list does not say how it goes on")?;
        listing.next = Some(next.to_owned());
    }
    Ok(listing)
}

/// Code and message of a refusal. One may also come with status 200.
pub fn error(text: &str) -> Option<(String, String)> {
    let document = parse(text).ok()?;
    let root = document.root_element();
    let root = if root.tag_name().name() == "Error" {
        root
    } else {
        root.descendants().find(|n| n.tag_name().name() == "Error")?
    };
    let field = |name| child(root, name).unwrap_or_default().trim().to_owned();
    Some((field("Code"), field("Message")))
}

/// CreateMultipartUpload.
pub fn upload_id(text: &str) -> Result<String, String> {
    let document = parse(text)?;
    let id = child(document.root_element(), "UploadId").filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or_else(|| "the store began an upload without an id".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let page = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <IsTruncated>true</IsTruncated><NextContinuationToken>1/x=</NextContinuationToken>
              <Contents><Key>a &amp; b</Key><Size>7</Size></Contents>
              <Contents><Key>c/</Key><Size>0</Size></Contents>
            </ListBucketResult>"#;
        let listed = |key: &str, bytes| Listed { key: key.into(), bytes };
        let want = Listing { objects: vec![listed("a & b", 7), listed("c/", 0)], next: Some("1/x=".into()) };
        assert_eq!(listing(page).unwrap(), want);
        assert_eq!(listing("<ListBucketResult/>").unwrap(), Listing::default());
        assert!(listing("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>").is_err());
        assert!(listing("no").is_err() && listing("<a><Contents/></a>").is_err());
        let refused = "<Error><Code>NoSuchKey</Code><Message>It is not there.</Message></Error>";
        assert_eq!(error(refused), Some(("NoSuchKey".into(), "It is not there.".into())));
        assert_eq!(error("<Fine/>"), None);
        assert_eq!(upload_id("<R><UploadId>u</UploadId></R>").unwrap(), "u");
        assert!(upload_id("<R/>").is_err());
    }

    #[test]
    fn entities_do_not_grow() {
        let mut bomb = String::from("<!DOCTYPE a [<!ENTITY a0 'xxxxxxxxxx'>");
        for i in 1..20 {
            let inner = format!("&a{};", i - 1).repeat(10);
            bomb += &format!("<!ENTITY a{i} '{inner}'>");
        }
        assert!(listing(&format!("{bomb}]><a>&a19;</a>")).is_err());
    }
}
