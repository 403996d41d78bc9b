"""Where adaptivity pays: wrong labels, few sentences, and rates by ranks."""
