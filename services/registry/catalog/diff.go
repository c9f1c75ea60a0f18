package catalog

import "strconv"

// Document is a model, or a part of one, as JSON sees it: the fields of Model
// that are not empty, and its versions by number.
type Document map[string]any

// Diff returns the parts of the model that the event changed, as they were and
// as they are. What is in one and not in the other was not there, so that taking
// away the leaves of before and putting those of after makes the one model of
// the other. Either is nil when the model was not there. Of the versions of a
// model that was deleted, before has the stage alone: each has entries of its
// own. What is said of a webhook
// always has its webhook_id.
func (c Change) Diff() (before, after Document) {
	switch {
	case c.AboutWebhook():
		before, after = c.PreviousWebhook.document(), c.Webhook.document()
		if before != nil && after != nil {
			before, after = diff(before, after)
			before["webhook_id"], after["webhook_id"] = c.Webhook.ID, c.Webhook.ID
		}
		return before, after
	case c.Previous == nil:
		after = c.Current.document()
		versions := Document{}
		for v := range c.Current.AllVersions() {
			versions[number(v.Number)] = v.document()
		}
		after.table("versions", versions)
		return nil, after
	case c.Current == nil:
		before = c.Previous.document()
		stages := Document{}
		for v := range c.Previous.AllVersions() {
			stages[number(v.Number)] = Document{"current_stage": v.Stage}
		}
		if len(stages) > 0 {
			before["versions"] = stages
		}
		return before, nil
	}
	before, after = diff(c.Previous.document(), c.Current.document())
	from, to := Document{}, Document{}
	for _, n := range c.Versions {
		old, ok := c.Previous.versions.Get(n)
		v, _ := c.Current.versions.Get(n)
		if !ok {
			to[number(n)] = v.document()
			continue
		}
		b, a := diff(old.document(), v.document())
		from.table(number(n), b)
		to.table(number(n), a)
	}
	before.table("versions", from)
	after.table("versions", to)
	return before, after
}

func (m *Model) document() Document {
	d := Document{
		"id": m.ID, "name": m.Name, "creation_timestamp": m.Created, "last_updated_timestamp": m.Updated,
		"next_version": m.Next,
	}
	if m.Renamed != 0 {
		d["renamed_timestamp"] = m.Renamed
	}
	d.text("description", m.Description)
	d.table("tags", stringTable(m.Tags))
	aliases := Document{}
	for alias, n := range m.Aliases {
		aliases[alias] = number(n)
	}
	d.table("aliases", aliases)
	gates := Document{}
	for key, g := range m.Gates {
		gates[key] = g.document()
	}
	d.table("gates", gates)
	return d
}

func (v *Version) document() Document {
	d := Document{"creation_timestamp": v.Created, "last_updated_timestamp": v.Updated, "current_stage": v.Stage}
	d.text("description", v.Description)
	d.text("user_id", v.UserID)
	d.text("source", v.Source)
	d.text("storage_location", v.StorageLocation)
	d.text("run_id", v.RunID)
	d.text("run_link", v.RunLink)
	d.text("model_id", v.ModelID)
	d.table("tags", stringTable(v.Tags))
	v.promotion(d)
	return d
}

func (d Document) text(key, value string) {
	if value != "" {
		d[key] = value
	}
}

func (d Document) table(key string, t Document) {
	if len(t) > 0 {
		d[key] = t
	}
}

func stringTable(m map[string]string) Document {
	d := make(Document, len(m))
	for k, v := range m {
		d[k] = v
	}
	return d
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// diff returns what differs between two documents whose values are plain or
// tables of plain values.
func diff(old, current Document) (before, after Document) {
	before, after = Document{}, Document{}
	for k, was := range old {
		is, ok := current[k]
		from, table := was.(Document)
		switch {
		case table:
			to, _ := is.(Document)
			b, a := diff(from, to)
			before.table(k, b)
			after.table(k, a)
		case !ok:
			before[k] = was
		case was != is:
			before[k], after[k] = was, is
		}
	}
	for k, is := range current {
		if _, ok := old[k]; !ok {
			after[k] = is
		}
	}
	return before, after
}
