//! Documents at rest: every node shows the same, however it has compacted them, and in whichever form it is asked.

use meridian_history::kind::ELEMENTS;
use serde_json::Value as Json;

use crate::editors::draft::Draft;
use crate::http::{Ask, ask};
use crate::inspector::DEADLINE;

/// The elements that a document shows, in their order; none of one that is absent.
pub(crate) fn shown(value: &Json) -> Vec<i64> {
    value[ELEMENTS].as_array().into_iter().flatten().filter_map(Json::as_i64).collect()
}

/// What a node holds of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) elements: Vec<i64>,
    /// Whether it holds something that is not shown, because it builds on what is not there.
    pub(crate) lacks_foundations: bool,
    pub(crate) version: String,
    /// How many snapshots of it there are: 0 before it is compacted.
    pub(crate) snapshots: u64,
}

/// Reads a document at a node in every form; `Ok(None)` if there is none. An error says what cannot be, or be read.
pub(crate) async fn copy(node: &str, key: &str) -> Result<Option<Copy>, String> {
    let path = format!("/v1/spaces/default/docs/{key}");
    let read = |path: String| async move {
        let asked = Ask::get(path).header("meridian-consistency", "eventual");
        let answer = ask(node, &asked, DEADLINE).await.map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            status => Err(format!("{status} {}", answer.body)),
        }
    };
    let Some(json) = read(path.clone()).await? else { return Ok(None) };
    let (Some(update), Some(stats)) =
        (read(format!("{path}?format=update")).await?, read(format!("{path}/stats")).await?)
    else {
        return Err("a document that is there is not there in another form".to_owned());
    };
    let elements = shown(&json.body["value"]);
    let draft = Draft::of(0, &update.bytes)?;
    let as_update = draft.elements();
    if as_update != elements {
        return Err(format!("shows {elements:?}, and as an update it reads as {as_update:?}"));
    }
    let lacks_foundations = draft.lacks_foundations();
    let version = json.body["version"].to_string();
    let snapshots = stats.body["snapshots"].as_u64().unwrap_or_default();
    Ok(Some(Copy { elements, lacks_foundations, version, snapshots }))
}

/// What is different among these copies of a document at these nodes; empty if nothing is.
pub(crate) fn difference(copies: &[(String, Copy)]) -> String {
    let Some(((first, like), others)) = copies.split_first() else { return String::new() };
    let differs = |copy: &Copy| copy.elements != like.elements || copy.version != like.version;
    match others.iter().find(|(_, copy)| differs(copy)) {
        Some((node, copy)) => format!("{first} has {like:?}, and {node} has {copy:?}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn copy(elements: &[i64], version: &str, snapshots: u64) -> (String, Copy) {
        let version = version.into();
        ("n".into(), Copy { elements: elements.to_vec(), lacks_foundations: false, version, snapshots })
    }

    #[test]
    fn a_document_shows_its_elements_in_their_order() {
        assert_eq!(shown(&json!({"a": [3, 1]})), [3, 1]);
        assert_eq!(shown(&Json::Null), [0i64; 0]);
    }

    #[test]
    fn nodes_may_differ_in_what_they_have_compacted_and_in_nothing_else() {
        let good = copy(&[3, 1], "v", 1);
        assert_eq!(difference(&[]), "");
        assert_eq!(difference(&[good.clone(), copy(&[3, 1], "v", 0)]), "");
        assert_ne!(difference(&[good.clone(), copy(&[1, 3], "v", 1)]), "", "another order");
        assert_ne!(difference(&[good.clone(), copy(&[3, 1], "w", 1)]), "", "another version");
        assert_ne!(difference(&[good, copy(&[3], "v", 1)]), "", "one less");
    }
}
