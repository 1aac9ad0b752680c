//! Where the pages of a long listing that nobody has asked for yet will probably begin. Pure.
//!
//! Owns: [`Outlook`]: what the last pages showed of the names, and the guesses that follow from it.
//! Invariants: a guess lies after the name it goes on from, is UTF-8 without `/`, and costs nothing but time
//! if it is wrong; what is kept does not grow with the listing.
//! Must never know: requests, keys, what a guess is used for.
//!
//! Names are read as numbers: each place has an alphabet, learnt from the names seen, and the end of a name
//! counts as the smallest character. The last pages tell how far apart names are as such numbers. Three
//! things make this fit the names that people's programs give:
//! - A place that has not gone through all its characters yet (`0000`, seen up to `0019`) gets those of its
//!   kind as well: digits, hexadecimal digits, letters, whatever the first places that change hold. So does a
//!   place that never changed, if its character is of that kind: `0999` is followed by `1000`.
//! - A place that began anew twice has gone through all of them, and keeps exactly those it showed: the tens of
//!   a day are 0 to 3.
//! - What changes in another way than the names' beginning, such as `.jpg`, is left out.

use std::collections::{BTreeSet, VecDeque};

/// Enough for an average that chance hardly moves, few enough to follow names that change.
const PAGES_KEPT: usize = 4;
/// Longer names differ further left, or nothing is guessed.
const PLACES_MAX: usize = 256;
/// Characters beyond ASCII that one place remembers.
const OTHERS_MAX: usize = 1024;
/// Names between which distances are measured.
const MARK_EVERY: usize = 128;
/// How finely names are told apart to the right of where they begin to differ.
const FINE: u128 = 1 << 48;
/// How far a carry reaches to the left. Sums stay below 2^127.
const WIDE: u128 = 1 << 110;
/// The places whose characters tell of what kind the names are.
const TELLING_PLACES: usize = 3;

/// The last pages of a listing in order.
#[derive(Default)]
pub(super) struct Outlook {
    pages: VecDeque<Seen>,
}

/// What one page showed.
struct Seen {
    first: String,
    last: String,
    names: usize,
    /// Some of the names, and the how manieth each was.
    marks: Vec<(String, usize)>,
    places: Vec<Place>,
}

#[derive(Default, Clone)]
struct Place {
    chars: Chars,
    /// How often a name had a character here and the one before it another beginning: between two such names
    /// the place has gone through all its characters.
    begun: usize,
}

/// A set of characters, in order.
#[derive(Default, Clone)]
struct Chars {
    ascii: u128,
    others: BTreeSet<char>,
}

impl Chars {
    fn one(c: char) -> Chars {
        let mut one = Chars::default();
        one.insert(c);
        one
    }

    fn range(first: u8, last: u8) -> Chars {
        Chars { ascii: (first..=last).fold(0, |set, b| set | 1 << b), others: BTreeSet::new() }
    }

    fn insert(&mut self, c: char) {
        if c.is_ascii() {
            self.ascii |= 1 << u32::from(c);
        } else if self.others.len() < OTHERS_MAX {
            self.others.insert(c);
        }
    }

    fn add(&mut self, more: &Chars) {
        self.ascii |= more.ascii;
        self.others.extend(&more.others);
    }

    fn contains(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii >> u32::from(c) & 1 == 1 } else { self.others.contains(&c) }
    }

    fn meets(&self, other: &Chars) -> bool {
        self.ascii & other.ascii != 0
    }

    fn len(&self) -> usize {
        self.ascii.count_ones() as usize + self.others.len()
    }

    /// How many come before `c`.
    fn below(&self, c: char) -> usize {
        if c.is_ascii() {
            (self.ascii & ((1 << u32::from(c)) - 1)).count_ones() as usize
        } else {
            self.ascii.count_ones() as usize + self.others.range(..c).count()
        }
    }

    fn nth(&self, n: usize) -> Option<char> {
        let ascii = self.ascii.count_ones() as usize;
        if n >= ascii {
            return self.others.iter().nth(n - ascii).copied();
        }
        let mut rest = self.ascii;
        for _ in 0..n {
            rest &= rest - 1;
        }
        u8::try_from(rest.trailing_zeros()).ok().map(char::from)
    }

    /// The kinds that ASCII's digits and letters among these belong to.
    fn kinds(&self) -> Chars {
        let mut kinds = Chars::default();
        let digits = Chars::range(b'0', b'9');
        if self.meets(&digits) {
            kinds.add(&digits);
        }
        for (a, f, z) in [(b'A', b'F', b'Z'), (b'a', b'f', b'z')] {
            if self.meets(&Chars::range(f + 1, z)) || !self.meets(&digits) && self.meets(&Chars::range(a, f))
            {
                kinds.add(&Chars::range(a, z));
            } else if self.meets(&Chars::range(a, f)) {
                kinds.add(&Chars::range(a, f));
            }
        }
        kinds
    }
}

impl Seen {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Option<Seen> {
        let mut names = names.map(stem).peekable();
        let first = (*names.peek()?).to_string();
        let (marks, places) = (Vec::new(), Vec::new());
        let mut seen = Seen { first, last: String::new(), names: 0, marks, places };
        let mut before = "";
        for name in names {
            let shared = before.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
            for (at, c) in name.chars().enumerate().take(PLACES_MAX).skip(shared) {
                if at == seen.places.len() {
                    seen.places.push(Place::default());
                }
                if let Some(place) = seen.places.get_mut(at) {
                    place.chars.insert(c);
                    place.begun += usize::from(at > shared && seen.names > 0);
                }
            }
            if seen.names.is_multiple_of(MARK_EVERY) {
                seen.marks.push((name.to_string(), seen.names));
            }
            seen.names += 1;
            before = name;
        }
        seen.last = before.to_string();
        if seen.names % MARK_EVERY != 1 {
            seen.marks.push((seen.last.clone(), seen.names - 1));
        }
        Some(seen)
    }
}

/// What counts of a name.
fn stem(name: &str) -> &str {
    let name = name.strip_suffix('/').unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, extension))
            if !stem.is_empty()
                && extension.len() <= 8
                && extension.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            stem
        }
        _ => name,
    }
}

/// Names as numbers: what stands before the places never changes.
struct Scale {
    fixed: String,
    places: Vec<Chars>,
}

impl Scale {
    /// None where a name is not below `fixed`.
    fn number(&self, name: &str) -> Option<u128> {
        let mut chars = name.strip_prefix(&self.fixed)?.chars();
        let mut number = 0;
        for place in &self.places {
            number *= place.len() as u128;
            let Some(c) = chars.next() else { continue };
            number += place.below(c).min(place.len() - 1) as u128;
            if !place.contains(c) {
                chars = "".chars();
            }
        }
        Some(number)
    }

    /// None beyond the last name.
    fn name(&self, mut number: u128) -> Option<String> {
        let mut chars = Vec::with_capacity(self.places.len());
        for place in self.places.iter().rev() {
            let base = place.len() as u128;
            chars.push(place.nth(usize::try_from(number % base).ok()?)?);
            number /= base;
        }
        (number == 0).then(|| self.fixed.chars().chain(chars.into_iter().rev()).collect())
    }
}

impl Outlook {
    /// Takes note of a page's names, in order.
    pub(super) fn page<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let Some(seen) = Seen::of(names) else { return };
        if self.pages.len() == PAGES_KEPT {
            self.pages.pop_front();
        }
        self.pages.push_back(seen);
    }

    /// Names that will probably stand `step`, twice `step`, ... names after `from`, at most `count`, each
    /// greater than the one before and than `from`. Fewer where the names seen do not tell.
    pub(super) fn ahead(&self, from: &str, step: usize, count: usize) -> Vec<String> {
        let mut guesses: Vec<String> = Vec::new();
        let Some((scale, apart)) = self.scale() else { return guesses };
        let Some(begin) = scale.number(from) else { return guesses };
        for n in 1..=count {
            // Far below 2^127: see `FINE` and `WIDE`.
            let distance = ((apart * (step * n) as f64) as u128).max(n as u128);
            let Some(guess) = scale.name(begin + distance) else { break };
            if guess.as_str() <= guesses.last().map_or(from, String::as_str) {
                break;
            }
            guesses.push(guess);
        }
        guesses
    }

    /// The names as numbers, and how far apart they are on average.
    fn scale(&self) -> Option<(Scale, f64)> {
        let (oldest, newest) = (self.pages.front()?, self.pages.back()?);
        let last: Vec<char> = newest.last.chars().take(PLACES_MAX).collect();
        let differ = oldest.first.chars().zip(&last).take_while(|(a, b)| a == *b).count();
        let kinds = self.kinds(differ);
        let mut places = VecDeque::new();
        let mut wide = 1;
        for at in differ..PLACES_MAX {
            let place = self.place(at, &kinds);
            if place.len() == 0 || wide >= FINE {
                break;
            }
            wide *= place.len() as u128;
            places.push_back(place);
        }
        let mut begin = differ;
        for c in last.get(..differ)?.iter().rev() {
            let place = if kinds.contains(*c) { kinds.clone() } else { Chars::one(*c) };
            wide *= place.len() as u128;
            if wide > WIDE {
                break;
            }
            places.push_front(place);
            begin -= 1;
        }
        let scale = Scale { fixed: last.get(..begin)?.iter().collect(), places: places.into() };
        let apart = self.apart(&scale)?;
        (apart > 0.0).then_some((scale, apart))
    }

    /// The median, so that a gap between days or after a lonely first name does not count.
    fn apart(&self, scale: &Scale) -> Option<f64> {
        let mut each = Vec::new();
        for page in &self.pages {
            let marks = page.marks.windows(2).filter_map(|pair| match pair {
                [(a, a_at), (b, b_at)] => Some((scale.number(a)?, scale.number(b)?, b_at - a_at)),
                _ => None,
            });
            each.extend(marks.map(|(a, b, names)| b.saturating_sub(a) as f64 / names as f64));
        }
        each.sort_by(f64::total_cmp);
        each.get(each.len() / 2).copied()
    }

    /// The characters of a place, those to come included.
    fn place(&self, at: usize, kinds: &Chars) -> Chars {
        let mut chars = self.shown(at);
        let begun: usize = self.pages.iter().filter_map(|page| page.places.get(at)).map(|p| p.begun).sum();
        if begun < 2 && chars.meets(kinds) {
            chars.add(kinds);
        }
        chars
    }

    fn shown(&self, at: usize) -> Chars {
        let mut chars = Chars::default();
        for place in self.pages.iter().filter_map(|page| page.places.get(at)) {
            chars.add(&place.chars);
        }
        chars
    }

    fn kinds(&self, differ: usize) -> Chars {
        let mut telling = Chars::default();
        let places = (differ..PLACES_MAX).map(|at| self.shown(at)).take_while(|chars| chars.len() > 0);
        for chars in places.filter(|chars| chars.len() > 1).take(TELLING_PLACES) {
            telling.add(&chars);
        }
        telling.kinds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads the first `pages` pages of 1,000, guesses eight pages of 930 names, and tells how many names lie
    /// between one guess and the next.
    fn gaps(mut names: Vec<String>, pages: usize) -> Vec<usize> {
        names.sort();
        names.dedup();
        let mut outlook = Outlook::default();
        for page in names.chunks(1000).take(pages) {
            outlook.page(page.iter().map(String::as_str));
        }
        let last = &names[pages * 1000 - 1];
        let mut ranks = vec![pages * 1000];
        for guess in outlook.ahead(last, 930, 8) {
            ranks.push(names.partition_point(|name| *name <= guess));
        }
        ranks.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Guesses all within `of` 930 names by this share.
    #[track_caller]
    fn assert_close(names: Vec<String>, pages: usize, share: f64) {
        let gaps = gaps(names, pages);
        assert_eq!(gaps.len(), 8);
        for gap in &gaps {
            assert!((*gap as f64 / 930.0 - 1.0).abs() <= share, "{gaps:?}");
        }
    }

    /// Numbers that look random, the same each time.
    fn random(n: u64) -> u128 {
        let high = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xdead_beef;
        let mix = |x: u64| (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32;
        u128::from(mix(mix(high))) << 64 | u128::from(mix(high ^ n))
    }

    #[test]
    fn padded_numbers_are_foreseen_exactly() {
        assert_close((0..100_000).map(|n| format!("f{n:06}")).collect(), 1, 0.01);
        assert_close((0..100_000).map(|n| format!("IMG-{n:08}.jpg")).collect(), 2, 0.01);
        assert_close((0..100_000).map(|n| format!("{n:05}/")).collect(), 5, 0.01);
        assert_close(
            (87_000..200_000).map(|n| format!("part-{n:05}-c000.snappy.parquet")).collect(),
            2,
            0.01,
        );
    }

    #[test]
    fn a_carry_reaches_places_that_never_changed() {
        let mut outlook = Outlook::default();
        let names: Vec<String> = (0..1000).map(|n| format!("f{n:06}")).collect();
        outlook.page(names.iter().map(String::as_str));
        assert_eq!(outlook.ahead("f000999", 950, 3), ["f001949", "f002899", "f003849"]);
        assert_eq!(outlook.ahead("f999999", 950, 3), Vec::<String>::new(), "there is no more after it");
    }

    #[test]
    fn numbers_without_padding_are_foreseen() {
        assert_close((0..100_000).map(|n| n.to_string()).collect(), 2, 0.13);
        assert_close((0..1_000_000).map(|n| format!("{n}.json")).collect(), 2, 0.13);
    }

    #[test]
    fn hashes_are_foreseen_as_well_as_chance_allows() {
        assert_close((0..200_000).map(|n| format!("{:032x}", random(n))).collect(), 4, 0.12);
        let uuid = |n: u64| {
            let hex = format!("{:032x}", random(n));
            format!("{}-{}-4{}-{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[16..20], &hex[20..])
        };
        assert_close((0..200_000).map(uuid).collect(), 4, 0.12);
        assert_close((0..200_000).map(|n| format!("{:032X}.bin", random(n))).collect(), 4, 0.12);
    }

    #[test]
    fn dates_go_on_within_their_months() {
        let mut names = Vec::new();
        for day in 0..360 {
            for minute in 0..1440 {
                let (month, day, hour, minute) = (day / 30 + 1, day % 30 + 1, minute / 60, minute % 60);
                names.push(format!("2024-{month:02}-{day:02}T{hour:02}:{minute:02}:00.log"));
            }
        }
        let gaps = gaps(names, 8);
        assert!(gaps.iter().all(|gap| *gap <= 1000) && gaps.iter().sum::<usize>() >= 8 * 650, "{gaps:?}");
    }

    #[test]
    fn nothing_is_guessed_from_names_that_do_not_tell() {
        let outlook = Outlook::default();
        assert!(outlook.ahead("a", 10, 3).is_empty(), "nothing was seen");
        let mut outlook = Outlook::default();
        outlook.page(["a"].into_iter());
        assert!(outlook.ahead("a", 10, 3).is_empty(), "one name has no distance");
    }

    #[test]
    fn what_is_kept_does_not_grow() {
        let mut outlook = Outlook::default();
        for n in 0..100u32 {
            let odd: String = (0..400).filter_map(|m| char::from_u32(0x4e00 + n * 400 + m)).collect();
            outlook.page([odd.as_str(), "\u{fffff}"].into_iter());
        }
        assert_eq!(outlook.pages.len(), PAGES_KEPT);
        assert!(outlook.pages.iter().all(|page| page.places.len() <= PLACES_MAX));
        let mut chars = Chars::default();
        for c in '\u{4e00}'..'\u{9fff}' {
            chars.insert(c);
        }
        assert_eq!(chars.len(), OTHERS_MAX);
    }

    proptest! {
        #[test]
        fn guesses_increase_and_lie_ahead(
            names in prop::collection::btree_set("[a0-9!./üあ𐀀-]{1,6}|[0-9]{1,4}(\\.jpg)?|\\PC{1,5}", 1..60),
            pages in 1usize..6,
            from in "[a0-9!.üあ]{0,6}",
            step in 1usize..2000,
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut outlook = Outlook::default();
            for page in names.chunks(names.len().div_ceil(pages)) {
                outlook.page(page.iter().map(String::as_str));
            }
            let last = names.last().map_or("", String::as_str).trim_end_matches('/');
            for from in [last, from.as_str()] {
                let guesses = outlook.ahead(from, step, 20);
                prop_assert!(guesses.len() <= 20);
                let mut before = from;
                for guess in &guesses {
                    prop_assert!(guess.as_str() > before, "{:?} after {:?}", guess, before);
                    before = guess;
                }
            }
        }

        #[test]
        fn a_number_leads_back_to_its_name(numbers in prop::collection::btree_set(0u32..100_000, 2..50)) {
            let names: Vec<String> = numbers.iter().map(|n| format!("x-{n:05}")).collect();
            let mut outlook = Outlook::default();
            outlook.page(names.iter().map(String::as_str));
            let (scale, apart) = outlook.scale().unwrap();
            prop_assert!(apart > 0.0);
            let numbers: Vec<u128> = names.iter().map(|name| scale.number(name).unwrap()).collect();
            prop_assert!(numbers.is_sorted());
            for (name, number) in names.iter().zip(numbers) {
                prop_assert!(name.starts_with(&scale.name(number).unwrap()));
            }
        }
    }
}
