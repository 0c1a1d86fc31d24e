//! The grammar of CommonText: a subject, an action, a text in single quotes. Subjects and actions are those of the published
//! files, counted there; nothing else of these files is kept.

/// What may hold a text, and how it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub subjects: &'static [&'static str],
    pub actions: &'static [&'static str],
}

/// People, animals and creatures: 75 subjects.
pub const ANIMATE: Group = Group {
    #[rustfmt::skip]
    subjects: &[
        "activist", "adventurer", "architect", "astronaut", "athlete", "boy", "chef", "climber", "cyclist", "dancer", "doctor", "dreamer",
        "engineer", "explorer", "farmer", "filmmaker", "follower", "girl", "journalist", "judge", "lawyer", "leader", "magician", "man",
        "musician", "nurse", "optimist", "painter", "pessimist", "photographer", "pilot", "poet", "politician", "realist", "runner",
        "scientist", "sculptor", "singer", "skater", "skier", "snowboarder", "student", "surfer", "swimmer", "teacher", "thinker",
        "traveler", "woman", "writer",
        "bird", "cat", "cow", "dog", "elephant", "ferret", "fish", "horse", "lion", "monkey", "panda", "pig", "rabbit", "rat", "sheep",
        "snake", "squirrel", "tiger",
        "alien", "dragon", "elf", "ghost", "unicorn", "vampire", "werewolf", "zombie",
    ],
    actions: &[
        "holding a sign reading",
        "displaying a placard saying",
        "waving a poster stating",
        "carrying a banner with words",
        "presenting a board that says",
    ],
};

/// Things and places: 7 subjects.
pub const INANIMATE: Group = Group {
    subjects: &["book", "car", "computer", "desert", "robot", "t-shirt", "tree"],
    actions: &["displaying the word", "with the inscription"],
};

/// Subjects that the authors' list holds twice.
pub const DOUBLED: [&str; 3] = ["horse", "monkey", "unicorn"];

/// Subjects whose article the published files write in lower case.
const LOWER_CASE: [&str; 2] = ["rabbit", "cow"];

/// How prompts begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Articles {
    /// Every prompt starts with a capital.
    Sentence,
    /// As published: `a rabbit` and `a cow` stay small.
    Published,
}

/// The prompt that asks `subject` to show `text`.
pub fn prompt(subject: &str, action: &str, text: &str, articles: Articles) -> String {
    let article = match articles {
        Articles::Published if LOWER_CASE.contains(&subject) => "a",
        // A unicorn starts with a consonant to the ear.
        _ if subject.starts_with(['a', 'e', 'i', 'o', 'u']) && subject != "unicorn" => "An",
        _ => "A",
    };
    format!("{article} {subject} {action} '{text}'.")
}

/// The group and subject behind each equally likely draw: 82 subjects, or the authors' 85 entries.
pub fn entries(articles: Articles) -> Vec<(Group, &'static str)> {
    let of = |group: Group| group.subjects.iter().map(move |&subject| (group, subject));
    let doubled = DOUBLED.iter().filter(|_| articles == Articles::Published).map(|&subject| (ANIMATE, subject));
    of(ANIMATE).chain(of(INANIMATE)).chain(doubled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_the_sound_and_the_published_ones_their_quirk() {
        let start = |subject: &str, articles| prompt(subject, "with the inscription", "go", articles);
        assert_eq!(start("elf", Articles::Sentence), "An elf with the inscription 'go'.");
        assert_eq!(start("unicorn", Articles::Sentence), "A unicorn with the inscription 'go'.");
        assert_eq!(start("rabbit", Articles::Sentence), "A rabbit with the inscription 'go'.");
        assert_eq!(start("rabbit", Articles::Published), "a rabbit with the inscription 'go'.");
    }

    #[test]
    fn there_are_as_many_subjects_and_pairs_as_were_counted() {
        assert_eq!((ANIMATE.subjects.len(), INANIMATE.subjects.len()), (75, 7));
        assert_eq!(ANIMATE.subjects.len() * ANIMATE.actions.len() + INANIMATE.subjects.len() * INANIMATE.actions.len(), 389);
        assert_eq!((entries(Articles::Sentence).len(), entries(Articles::Published).len()), (82, 85));
    }
}
