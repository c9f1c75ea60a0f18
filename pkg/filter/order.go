package filter

import (
	"slices"
	"strings"
)

// ParseRunOrder parses the order_by clauses of a search of runs. It returns an
// *Error for a bad one, as do all functions below.
func ParseRunOrder(clauses []string) ([]Order, error) { return parseOrder(&runRules, clauses) }

// ParseExperimentOrder parses the order_by clauses of a search of experiments.
func ParseExperimentOrder(clauses []string) ([]Order, error) {
	return parseOrder(&experimentRules, clauses)
}

// ParseRegisteredModelOrder parses the order_by clauses of a search of
// registered models.
func ParseRegisteredModelOrder(clauses []string) ([]Order, error) {
	return parseOrder(&registeredModelRules, clauses)
}

// ParseModelVersionOrder parses the order_by clauses of a search of model
// versions.
func ParseModelVersionOrder(clauses []string) ([]Order, error) {
	return parseOrder(&modelVersionRules, clauses)
}

// ParseDatasetOrder parses the order_by clauses of a search of evaluation
// datasets.
func ParseDatasetOrder(clauses []string) ([]Order, error) { return parseOrder(&datasetRules, clauses) }

// ParseLoggedModelOrderField parses the field_name of one order_by entry of a
// search of logged models: an attribute, or metrics.<key> with the key
// unquoted. Direction and dataset are separate fields of the entry, and the
// same metric may be ordered by for several datasets.
func ParseLoggedModelOrderField(name string, desc bool) (Order, error) {
	p, err := newParser(&loggedModelRules, "order by field name", name)
	if err != nil {
		return Order{}, err
	}
	if entity, key, ok := strings.Cut(name, "."); ok {
		if entity != "metrics" {
			return Order{}, p.errorf(0, "Invalid order by field name: %s. Only metrics are supported.", excerpt(name))
		}
		return Order{Entity: Metric, Key: key, Desc: desc}, nil
	}
	key, ok := p.rules.orderKeys[strings.TrimSpace(name)]
	if !ok {
		return Order{}, p.errorf(0, "Invalid order by field name: %s. Valid names are %s", excerpt(name), keysOf(p.rules.orderKeys))
	}
	return Order{Entity: Attribute, Key: key, Desc: desc}, nil
}

func parseOrder(r *rules, clauses []string) ([]Order, error) {
	if len(clauses) > MaxOrders {
		return nil, &Error{Message: "Invalid order_by: too many clauses"}
	}
	var orders []Order
	for _, clause := range clauses {
		o, err := parseClause(r, clause)
		if err != nil {
			return nil, err
		}
		same := func(other Order) bool { return other.Entity == o.Entity && other.Key == o.Key }
		if slices.ContainsFunc(orders, same) {
			return nil, &Error{Message: "`order_by` contains duplicate fields: '" + excerpt(clause) + "'"}
		}
		orders = append(orders, o)
	}
	return orders, nil
}

func parseClause(r *rules, clause string) (Order, error) {
	p, err := newParser(r, "order_by clause", clause)
	if err != nil {
		return Order{}, err
	}
	if p.skipSpace(); p.done() {
		return Order{}, unparsedOrder(clause)
	}
	start := p.pos
	if r.plainOrder {
		return plainClause(r, clause)
	}
	entity, key, err := p.orderIdentifier()
	if err != nil {
		return Order{}, err
	}
	o := Order{Entity: entity, Key: key}
	if entity == Attribute {
		var ok bool
		if o.Key, ok = r.orderKeys[key]; !ok {
			return o, p.errorf(start, "Invalid attribute key '%s' specified. Valid keys are %s", excerpt(key), keysOf(r.orderKeys))
		}
	}
	p.skipSpace()
	o.Desc = p.keyword("DESC")
	directed := o.Desc || p.keyword("ASC")
	if p.skipSpace(); !p.done() {
		if at := p.pos; directed || p.word() == "" || !p.done() {
			p.pos = at
			return o, unparsedOrder(clause)
		}
		return o, p.errorf(p.pos, "Invalid ordering key in order_by clause '%s'.", excerpt(clause))
	}
	return o, nil
}

// orderIdentifier reads an optional entity and a key. An entity that is known in
// filters alone is named as such.
func (p *parser) orderIdentifier() (Entity, string, error) {
	start := p.pos
	entity, key, err := p.identifier(p.rules.orderEntities)
	if err == nil {
		return entity, key, nil
	}
	p.pos = start
	switch known, key, unknown := p.identifier(p.rules.entities); {
	case unknown != nil:
		return 0, "", unknown
	case p.rules.wording == experimentWords:
		return 0, "", p.errorf(start, "Invalid order_by entity: %s", known)
	case p.rules.wording == registryWords:
		return 0, "", p.errorf(start, "Invalid order by key '%s' specified. Valid keys are %s", excerpt(key), strings.Trim(keysOf(p.rules.orderKeys), "'"))
	default:
		return 0, "", p.errorf(start, "Invalid identifier type '%s'", known)
	}
}

// plainClause reads a key and a direction.
func plainClause(r *rules, clause string) (Order, error) {
	words := strings.Fields(clause)
	direction := "ASC"
	if len(words) == 2 {
		direction = strings.ToUpper(words[1])
	}
	switch {
	case len(words) > 2 || strings.Contains(words[0], ","):
		return Order{}, unparsedOrder(clause)
	case direction != "ASC" && direction != "DESC":
		return Order{}, &Error{"Invalid ordering key in order_by clause '" + excerpt(clause) + "'.", 0}
	}
	name := words[0]
	if last := len(name) - 1; last > 0 && (name[0] == '"' || name[0] == '`') && name[last] == name[0] {
		name = name[1:last]
	}
	key, ok := r.orderKeys[name]
	if !ok {
		// MLflow does not list last_updated_timestamp, which it takes too.
		return Order{}, &Error{"Invalid order by key '" + excerpt(words[0]) + "' specified. Valid keys are '{'name', 'timestamp'}'", 0}
	}
	return Order{Key: key, Desc: direction == "DESC"}, nil
}
