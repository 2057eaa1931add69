package modelpool

// FieldsOf names the fields that the library describes for a table.
func FieldsOf(name string) (map[string]bool, error) {
	described, err := describe(tableNumbers[name])
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range described.fields {
		names[name] = true
	}
	return names, nil
}
