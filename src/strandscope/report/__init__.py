"""What a reader gets: findings that each rest on a reading, figures as data, and the pages made of them."""
